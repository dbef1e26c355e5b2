// The ranks at work: what the server says of them each second, as figures and as bars that move.
import { status } from "./api.js";
import { by, count, duration, el, figure } from "./dom.js";

const EVERY = 1000; // milliseconds
const KEPT = 60; // seconds of the line
// As coordinator/measuring/ledger.py has them.
const KINDS = [
  ["device", "computing", "the device computed"],
  ["wait", "wait", "the host waited for an idle device"],
  ["reduce", "all-reduce", "adding up with the other ranks"],
  ["submit", "submit", "in the driver"],
  ["host", "host", "the rank's own Python"],
  ["coordinator", "coordinator", "no step: messages, sampling, slower ranks"],
];

export class Ranks {
  // onStatus hears each status, and null where the server can't be reached.
  constructor(onStatus) {
    this.onStatus = onStatus;
    this.rates = [];
    this.rows = [];
    by("legend").append(...KINDS.map(([kind, label, help]) => el("li", { class: kind, title: help }, el("i"), label)));
    document.addEventListener("visibilitychange", () => document.hidden || this.ask());
    by("ranks-toggle").addEventListener("click", () => this.toggle());
    by("ranks").addEventListener("keydown", ({ key }) => key === "Escape" && this.toggle(false));
  }

  toggle(isOpen = !document.body.classList.contains("ranks-open")) {
    document.body.classList.toggle("ranks-open", isOpen);
    by("ranks-toggle").setAttribute("aria-expanded", isOpen);
  }

  // Asks once, and again while the page is seen.
  async ask() {
    clearTimeout(this.timer);
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      const found = await status();
      this.show(found);
      this.onStatus(found);
    } catch (error) {
      this.onStatus(null, error);
      document.body.classList.add("unreached");
    }
    this.isAsking = false;
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), EVERY);
  }

  show({ tokens_per_second: rate, kv, requests, step, ranks }) {
    document.body.classList.remove("unreached");
    by("rate").textContent = figure(rate.generated);
    by("prompt-rate").textContent = figure(rate.prompt);
    by("step-time").textContent = step.microseconds ? duration(step.microseconds) : "–";
    by("running").textContent = count(requests.running);
    by("waiting").textContent = count(requests.waiting);
    const used = 100 * kv.usage;
    by("kv").textContent = `${figure(used)} %`;
    by("kv-note").textContent = `KV cache, ${count(kv.blocks_used)} of ${count(kv.blocks)} blocks`;
    by("kv-meter").setAttribute("aria-valuenow", Math.round(used));
    by("kv-meter").firstElementChild.style.width = `${used}%`;
    by("brief").textContent = `${figure(rate.generated)} tok/s`;
    this.draw(rate.generated);
    this.showLedgers(ranks, step);
  }

  draw(rate) {
    this.rates = [...this.rates, rate].slice(-KEPT);
    const most = Math.max(...this.rates, 1e-9);
    const points = this.rates.map((value, index) => {
      const x = 120 - (120 / (KEPT - 1)) * (this.rates.length - 1 - index);
      return `${x.toFixed(1)} ${(31 - (29 * value) / most).toFixed(1)}`;
    });
    const [, area, line] = by("trace").children;
    line.setAttribute("d", `M${points.join("L")}`);
    area.setAttribute("d", `M${points.join("L")}L120 32L${points[0].split(" ")[0]} 32Z`);
  }

  showLedgers(ranks, step) {
    if (ranks.length !== this.rows.length) {
      this.rows = ranks.map((rank, index) => new Row(rank, index));
      by("ledger").replaceChildren(...this.rows.map(({ element }) => element));
    }
    ranks.forEach((rank, index) => this.rows[index].show(rank.microseconds, step));
    by("ledger").classList.toggle("resting", !step.is_running);
    by("half").textContent = step.microseconds ? duration(step.microseconds / 2) : "";
    by("full").textContent = step.microseconds ? duration(step.microseconds) : "";
    const blind = ranks.flatMap(({ microseconds }, index) =>
      Object.keys(microseconds).length && !("device" in microseconds) ? [index] : [],
    );
    by("ranks-note").hidden = !blind.length;
    const which = blind.length < ranks.length ? ` of rank ${blind.join(", ")}` : "";
    by("ranks-note").textContent = `“Wait”${which} is mostly computing: devices note when they compute where the server runs with --ledger.`;
  }
}

class Row {
  constructor({ device }, index) {
    this.parts = KINDS.map(([kind]) => el("i", { class: kind }));
    this.bar = el("div", { class: "parts", role: "img" }, ...this.parts);
    this.share = el("span", { class: "mono" });
    this.index = index;
    const name = el("span", { class: "name", title: device }, el("b", { class: "mono" }, index), ` ${device}`);
    this.element = el("li", {}, el("p", {}, name, this.share), this.bar);
  }

  show(microseconds, { microseconds: length, is_running: isRunning }) {
    const sum = KINDS.reduce((total, [kind]) => total + Math.max(0, microseconds[kind] ?? 0), 0);
    this.bar.classList.toggle("empty", !sum);
    this.bar.classList.toggle("blind", !("device" in microseconds));
    KINDS.forEach(([kind, label], index) => {
      const value = Math.max(0, microseconds[kind] ?? 0);
      this.parts[index].style.flexGrow = sum ? (value / sum).toFixed(4) : 0;
      this.parts[index].title = `${label}: ${duration(value)}`;
    });
    const parts = KINDS.filter(([kind]) => microseconds[kind] > 0);
    const said = parts.map(([kind, label]) => `${label} ${Math.round((100 * microseconds[kind]) / sum)} %`);
    this.bar.setAttribute("aria-label", sum ? `Rank ${this.index}, ${duration(length)} a step: ${said.join(", ")}` : `Rank ${this.index} has done no step yet`);
    const busy = microseconds.device;
    const share = busy === undefined ? "" : `computes ${Math.round((100 * busy) / sum)} %`;
    this.share.textContent = isRunning && sum ? share : "idle";
  }
}
