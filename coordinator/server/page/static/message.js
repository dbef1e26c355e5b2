// One message on the page: its text, its reasoning, what it took, and what can be done with it.
import { button, copy, count, el, figure } from "./dom.js";
import { LiveText, showText } from "./markup.js";

const ENDS = {
  length: "The answer ends here because it has as many tokens as it may have, or the context is full.",
  stopped: "Stopped.",
  cancelled: "Stopped.",
};

// actions: copy is its own; edit(view), again(view), goOn(view) are the conversation's.
export class MessageView {
  constructor(message, { isText, ...actions }) {
    this.message = message;
    this.actions = actions;
    this.isText = isText;
    this.isUser = message.role === "user";
    this.body = el("div", { class: "body" });
    this.facts = el("p", { class: "facts mono" });
    this.tools = el("div", { class: "tools" });
    const who = isText ? (this.isUser ? "text" : "model") : this.isUser ? "you" : "model";
    this.element = el(
      "article",
      { class: `turn ${message.role}${isText ? " continued" : ""}`, "aria-label": this.isUser ? "You" : "Model" },
      el("p", { class: "who mono" }, who),
      el("div", { class: "content" }, this.body, this.facts, this.tools),
    );
  }

  // Shows the text as it is, until `show` has its markdown.
  showPlain() {
    this.body.replaceChildren(el("div", { class: "plain" }, this.message.content));
    this.showEnd();
  }

  // Shows a message that is complete. Returns when its markdown is drawn.
  show() {
    const { reasoning, content } = this.message;
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
    this.live = null;
    let drawn = Promise.resolve();
    if (this.isUser || this.isText) {
      this.body.replaceChildren(el("div", { class: "plain" }, content));
    } else {
      this.body.replaceChildren();
      if (reasoning) this.showReasoning(false);
      const text = el("div", { class: "text" });
      this.body.append(text);
      if (content) drawn = showText(text, content);
    }
    this.showEnd();
    return drawn;
  }

  showReasoning(isRunning) {
    if (!this.thought || !this.body.contains(this.thought)) {
      this.thoughtText = document.createTextNode("");
      this.thoughtTitle = el("summary");
      const text = el("div", { class: "plain" });
      text.append(this.thoughtText);
      this.thought = el("details", { class: "reasoning" }, this.thoughtTitle, text);
      this.body.prepend(this.thought);
    }
    const { reasoning, seconds } = this.message;
    const known = this.thoughtText.data;
    if (reasoning.startsWith(known)) this.thoughtText.appendData(reasoning.slice(known.length));
    else this.thoughtText.data = reasoning;
    this.thought.classList.toggle("running", isRunning);
    const took = seconds ? ` for ${figure(seconds)} s` : "";
    this.thoughtTitle.textContent = isRunning ? "Reasoning" : `Reasoned${took}`;
  }

  // Begins to show an answer that is on its way.
  begin(onDrawn) {
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
    this.facts.textContent = "";
    this.tools.replaceChildren();
    this.onDrawn = onDrawn;
    if (this.isText) {
      this.plainText = document.createTextNode("");
      this.body.replaceChildren(el("div", { class: "plain rest" }));
      this.body.firstChild.append(this.plainText);
    } else {
      const text = el("div", { class: "text" });
      this.body.replaceChildren(text);
      this.live = new LiveText(text, onDrawn);
    }
    this.grow();
  }

  grow() {
    const { reasoning, content } = this.message;
    if (this.isText) {
      this.plainText.appendData(content.slice(this.plainText.length));
      this.onDrawn();
      return;
    }
    if (reasoning) this.showReasoning(!content);
    if (content) this.live.push(content);
    if (reasoning && !content) this.onDrawn();
  }

  // Ends what `begin` began, unless it began anew meanwhile.
  async end() {
    const { live } = this;
    if (live && this.message.content) await live.finish();
    if (this.live !== live) return;
    this.live = null;
    if (this.message.reasoning && !this.isText) this.showReasoning(false);
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
    this.showEnd();
  }

  showEnd() {
    const { end, error, took } = this.message;
    this.facts.textContent = took ? facts(took) : "";
    this.body.querySelector(".end")?.remove();
    const isLeft = !this.isUser && !end; // a page that was closed meanwhile has written nothing there
    const note = error ?? (isLeft ? "This answer is not complete." : this.isText ? null : ENDS[end]);
    const { again, edit, goOn } = this.actions;
    if (note) {
      const retry = error && again ? button("Try again", () => again(this), { class: "strong" }) : null;
      this.body.append(el("p", { class: error ? "end wrong" : "end" }, note, retry));
    }
    const tools = [button("copy", ({ currentTarget }) => copy(this.message.content, currentTarget))];
    if (this.isUser && edit) tools.push(button("edit", () => edit(this)));
    if (!this.isUser && again) tools.push(button("again", () => again(this), { title: "Answer again (Alt R)" }));
    if (!this.isUser && !this.isText && goOn && end !== "stop" && this.message.content)
      tools.push(button("go on", () => goOn(this), { class: "go-on", title: "Continue this answer" }));
    this.tools.replaceChildren(...tools);
  }

  // Has the message edited in its place. Resolves with the new text, or null.
  edited() {
    const field = el("textarea", { class: "edit", "aria-label": "Edit the message", rows: 3 });
    field.value = this.message.content;
    return new Promise((resolve) => {
      const done = (text) => {
        this.show();
        resolve(text);
      };
      field.addEventListener("keydown", (event) => {
        if (event.key === "Escape") done(null);
        else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) done(field.value);
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      const note = el("p", { class: "note" }, "What came after it goes.");
      const buttons = [
        button("Cancel", () => done(null)),
        button("Send", () => done(field.value), { class: "strong" }),
      ];
      this.body.replaceChildren(field, el("p", { class: "buttons" }, note, ...buttons));
      this.tools.replaceChildren();
      field.focus();
      field.setSelectionRange(field.value.length, field.value.length);
    });
  }
}

function facts({ tokens, first, seconds, thinking }) {
  const parts = [`${count(tokens)} ${tokens === 1 ? "token" : "tokens"}`];
  if (thinking) parts.push(`${count(thinking)} of them reasoning`);
  if (tokens > 1 && seconds > first) parts.push(`${figure((tokens - 1) / (seconds - first))} tokens/s`);
  parts.push(`first after ${figure(first)} s`);
  return parts.join("  ·  ");
}
