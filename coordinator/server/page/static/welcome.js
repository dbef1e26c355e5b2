// What an empty conversation shows: the model, as it lies on its ranks.
import { count, el } from "./dom.js";

export function welcome(server) {
  if (!server) return el("div", { class: "welcome" });
  const { model, ranks, context, chat, version } = server;
  const rows = ranks.map(({ device, share }, index) => {
    const bar = el("i");
    bar.style.width = `${100 * share}%`;
    const part = el("span", { class: "mono" }, `${Math.round(100 * share)} %`);
    return el("li", {}, el("span", { class: "mono" }, `rank ${index}`), el("div", {}, bar), part, el("span", {}, device));
  });
  const sentence = chat
    ? null
    : el("p", { class: "told" }, "This model has no chat template, so it answers no messages. It continues texts: write how one begins.");
  return el(
    "div",
    { class: "welcome" },
    el("p", { class: "mono faint" }, `tplaunch ${version}`),
    el("h2", {}, model),
    el("p", {}, `${count(context)} tokens of context on ${ranks.length} ${ranks.length === 1 ? "rank" : "ranks"}`),
    el("ol", {}, ...rows),
    sentence,
  );
}
