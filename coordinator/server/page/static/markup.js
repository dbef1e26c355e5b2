// Shows markdown as the server renders it. All HTML of the page comes through `fill`.
import { render } from "./api.js";

const MAX_CHARACTERS = 100_000; // that the server renders at once
const LEAST_PAUSE = 120; // milliseconds between two renderings of an answer

// The server writes tags of its own and nothing of the text's; scripts would not run in any case.
const policy = globalThis.trustedTypes?.createPolicy("tplaunch", { createHTML: (html) => html });

function fill(element, html) {
  element.innerHTML = policy ? policy.createHTML(html) : html;
}

function plain(element, text) {
  element.textContent = text;
  element.classList.toggle("plain", text !== "");
}

const withNewlines = (text) => text.replaceAll("\r\n", "\n").replaceAll("\r", "\n");

const afterLines = (text, count) => {
  let at = 0;
  for (let line = 0; line < count; line += 1) at = text.indexOf("\n", at) + 1;
  return at;
};

// A text that grows: what is settled stays, and only the last block is rendered again.
export class LiveText {
  constructor(element, onDrawn = () => {}) {
    this.settled = document.createElement("div");
    this.rest = document.createElement("div");
    element.replaceChildren(this.settled, this.rest);
    this.onDrawn = onDrawn;
    this.text = "";
    this.from = 0; // characters that are settled
    this.next = 0; // when it may be rendered again
    this.timer = null;
    this.drawing = null;
  }

  push(text) {
    this.text = withNewlines(text);
    this.schedule();
  }

  // Everything has come. Returns when it is shown.
  async finish() {
    clearTimeout(this.timer);
    this.isFinished = true;
    await this.drawing;
    await this.drawWhole();
    this.onDrawn();
  }

  schedule() {
    if (this.timer || this.drawing || this.isFinished) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.drawing = this.draw().finally(() => {
        this.drawing = null;
        if (this.drawn !== this.text) this.schedule();
      });
    }, Math.max(0, this.next - performance.now()));
  }

  async draw() {
    const text = this.text;
    const sent = text.slice(this.from);
    const begin = performance.now();
    try {
      if (sent.length > MAX_CHARACTERS) throw new RangeError("too long");
      const { settled, num_lines, rest } = await render(sent, true);
      if (settled) {
        const more = document.createElement("div");
        fill(more, settled);
        this.settled.append(...more.childNodes);
        this.from += afterLines(sent, num_lines);
      }
      this.rest.classList.remove("plain");
      fill(this.rest, rest);
      this.next = performance.now() + Math.max(LEAST_PAUSE, 3 * (performance.now() - begin));
    } catch {
      plain(this.rest, sent);
      this.next = performance.now() + 1000;
    }
    this.drawn = text;
    this.onDrawn();
  }

  // Once more at the end: a link may have found its target since. What is too long is rendered in parts.
  async drawWhole() {
    const parts = [];
    try {
      let from = 0;
      while (this.text.length - from > MAX_CHARACTERS) {
        const end = this.text.lastIndexOf("\n", from + MAX_CHARACTERS - 1) + 1;
        const part = this.text.slice(from, end);
        const { settled, num_lines } = await render(part, true);
        if (!num_lines) throw new RangeError("a block is too long");
        parts.push(settled);
        from += afterLines(part, num_lines);
      }
      parts.push((await render(this.text.slice(from), false)).settled);
      fill(this.settled, parts.join(""));
      this.rest.replaceChildren();
      this.rest.classList.remove("plain");
    } catch {
      await this.draw();
    }
  }
}

// A text that is complete: as it is, until it is drawn.
export function showText(element, text) {
  const live = new LiveText(element);
  live.text = withNewlines(text);
  plain(live.rest, text);
  return live.finish();
}
