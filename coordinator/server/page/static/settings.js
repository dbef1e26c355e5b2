// The settings of a conversation: its dialog.
import { by, el } from "./dom.js";
import { setDefaults } from "./store.js";

// name, label, what it may be, what it does
const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 10, step: 0.05 }, "0 takes the likeliest token"],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.01 }, "the likeliest tokens with this share"],
  ["top_k", "Top k", { min: 0, step: 1 }, "so many of the likeliest; 0 for all"],
  ["min_p", "Min p", { min: 0, max: 1, step: 0.01 }, "at least this share of the likeliest"],
  ["repetition_penalty", "Repetition penalty", { min: 0.01, max: 10, step: 0.01 }, "1 for none"],
  ["max_tokens", "Tokens at most", { min: 1, step: 1 }, "of an answer"],
  ["seed", "Seed", { min: 0, step: 1 }, "the same seed, the same answer"],
];

export class Settings {
  constructor(onDone) {
    this.dialog = by("settings");
    this.form = this.dialog.querySelector("form");
    by("sampling").append(...FIELDS.map(field), thinking());
    by("settings-reset").addEventListener("click", () => this.fill({ mode: this.mode, system: "", settings: {} }));
    this.dialog.addEventListener("close", () => this.take(onDone));
  }

  get mode() {
    return this.form.elements.mode.value;
  }

  open(conversation, canChat) {
    this.conversation = conversation;
    this.fill(conversation);
    const mayChange = !conversation.messages.length;
    for (const one of this.form.elements.mode) one.disabled = !mayChange || (one.value === "chat" && !canChat);
    this.dialog.showModal();
  }

  fill({ mode, system, settings }) {
    const { elements } = this.form;
    elements.mode.value = mode;
    elements.system.value = system;
    for (const name of names()) elements[name].value = settings[name] ?? "";
  }

  take(onDone) {
    const { elements } = this.form;
    const settings = {};
    for (const name of names()) {
      const { value, validity } = elements[name];
      if (value !== "" && validity.valid) settings[name] = value;
    }
    Object.assign(this.conversation, { mode: this.mode, system: elements.system.value.trim(), settings });
    setDefaults(this.conversation);
    onDone(this.conversation);
  }
}

const names = () => [...FIELDS.map(([name]) => name), "stop", "thinking"];

function field([name, label, limits, help]) {
  const input = el("input", { type: "number", name, placeholder: "–", inputmode: "decimal", ...limits, "aria-describedby": `about-${name}` });
  return el("label", {}, label, input, el("small", { id: `about-${name}` }, help));
}

function thinking() {
  const options = [["", "as the model does"], ["on", "on"], ["off", "off"]];
  const select = el("select", { name: "thinking" }, ...options.map(([value, label]) => el("option", { value }, label)));
  return el("label", {}, "Reasoning", select, el("small", {}, "where its template knows"));
}
