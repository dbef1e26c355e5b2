// The conversation that is shown: sends, stops, answers again, edits. Answers go on while another is shown.
import { answer } from "./answering.js";
import { by, count, notice, say } from "./dom.js";
import { MessageView } from "./message.js";
import * as store from "./store.js";

const NEAR = 80; // pixels from the end within which the page follows the text
const SAVE_EVERY = 1000; // milliseconds

export class Chat {
  constructor({ onChange, onWelcome }) {
    this.onChange = onChange; // of the list of conversations
    this.onWelcome = onWelcome; // makes what an empty conversation shows
    this.running = new Map(); // by the conversation's id: its abort controller, and the view that grows
    this.server = { chat: true, model: "", context: 0 };
    this.scroll = by("scroll");
    this.scroll.addEventListener("scroll", () => this.watchEnd(), { passive: true });
    by("to-end").addEventListener("click", () => this.toEnd());
    addEventListener("pagehide", () => this.keepAll());
    addEventListener("pageshow", () => (this.isLeaving = false));
    this.views = [];
    this.isAtEnd = true;
  }

  get isRunning() {
    return this.running.has(this.conversation.id);
  }

  get isText() {
    return this.conversation.mode === "text";
  }

  open(conversation) {
    this.conversation = conversation;
    notice("");
    const views = conversation.messages.map((message) => this.viewOf(message));
    this.views = views;
    by("transcript").replaceChildren(...views.map(({ element }) => element));
    if (!views.length) by("transcript").append(this.onWelcome());
    const run = this.running.get(conversation.id);
    this.isAtEnd = true;
    if (run) {
      run.view = views[run.index];
      run.view.begin(() => this.follow());
    }
    this.showState();
    this.follow();
    this.drawn = this.draw(views, run?.view);
  }

  // The newest first: they are what is seen.
  async draw(views, growing) {
    const quiet = views.filter((view) => view !== growing);
    for (const view of quiet) view.showPlain();
    for (const view of quiet.reverse()) {
      if (this.views !== views) return;
      if (view.isUser) continue; // it is whole already, and may be edited by now
      await view.show();
      this.follow();
    }
  }

  viewOf(message) {
    return new MessageView(message, {
      isText: this.isText,
      edit: (view) => this.edit(view),
      again: (view) => this.again(view),
      goOn: (view) => this.goOn(view),
    });
  }

  // Returns false where it can't be sent now.
  send(text) {
    const { messages } = this.conversation;
    if (this.isRunning || (!text.trim() && !(this.isText && messages.length))) return false;
    if (!messages.length) by("transcript").replaceChildren();
    if (text.trim()) this.add({ role: "user", content: text });
    this.isAtEnd = true;
    this.run(messages.length);
    return true;
  }

  add(message) {
    this.conversation.messages.push(message);
    const view = this.viewOf(message);
    this.views.push(view);
    by("transcript").append(view.element);
    view.show();
    return view;
  }

  async run(index, isGoingOn = false) {
    const { conversation } = this;
    if (this.running.has(conversation.id)) return;
    if (index === conversation.messages.length) this.add({ role: "assistant", content: "", reasoning: "" });
    const controller = new AbortController();
    const run = { controller, index, view: this.views[index], saved: performance.now() };
    this.running.set(conversation.id, run);
    const message = conversation.messages[index];
    if (!isGoingOn) Object.assign(message, { content: "", reasoning: "" });
    run.view.begin(() => this.follow());
    conversation.updated = Date.now();
    this.keep(conversation);
    this.showState();
    say("The model answers.");
    const grew = () => this.grew(conversation, run);
    await answer(conversation, index, { model: this.server.model, signal: controller.signal, grew, isGoingOn });
    this.running.delete(conversation.id);
    this.keep(conversation);
    await this.ended(conversation, run);
  }

  grew(conversation, run) {
    if (conversation === this.conversation) run.view.grow();
    if (performance.now() - run.saved > SAVE_EVERY) {
      run.saved = performance.now();
      this.keep(conversation);
    }
  }

  async ended(conversation, run) {
    const message = conversation.messages[run.index];
    if (conversation !== this.conversation) return;
    this.showState();
    await run.view.end();
    this.follow();
    say(message.error ?? `The answer is complete. ${message.content.slice(0, 400)}`);
  }

  stop() {
    this.running.get(this.conversation.id)?.controller.abort();
  }

  again(view) {
    const index = this.views.indexOf(view);
    if (this.isRunning || index < 0) return;
    if (view.element.contains(document.activeElement)) by("input").focus({ preventScroll: true });
    this.cut(index + 1);
    this.run(index);
  }

  // Only the last answer goes on: what came after an earlier one would no longer follow from it.
  goOn(view) {
    if (this.isRunning || view !== this.views.at(-1)) return;
    by("input").focus({ preventScroll: true });
    this.run(this.views.length - 1, true);
  }

  // The last answer once more.
  lastAgain() {
    const view = this.views.findLast(({ isUser }) => !isUser);
    if (view) this.again(view);
  }

  async edit(view) {
    if (this.isRunning) return;
    const text = await view.edited();
    const index = this.views.indexOf(view);
    if (text === null || !text.trim() || index < 0 || this.isRunning) {
      by("input").focus();
      return;
    }
    this.cut(index);
    this.send(text);
    by("input").focus();
  }

  editLast() {
    const view = this.views.findLast(({ isUser }) => isUser);
    if (view) this.edit(view);
  }

  cut(length) {
    for (const view of this.views.splice(length)) view.element.remove();
    this.conversation.messages.length = Math.min(length, this.conversation.messages.length);
  }

  keep(conversation) {
    if (this.isLeaving) return; // the browser ends what runs, which is no fault of the server's
    const told = store.put(conversation);
    if (told) notice(told);
    this.onChange();
  }

  keepAll() {
    this.isLeaving = true;
    for (const id of this.running.keys()) {
      const conversation = store.get(id);
      if (conversation) store.put(conversation);
    }
  }

  forget(id) {
    this.running.get(id)?.controller.abort();
    store.remove(id);
  }

  showState() {
    const { isRunning, isText } = this;
    const isEmpty = !this.conversation.messages.length;
    by("send").textContent = isRunning ? "Stop" : isText ? "Go on" : "Send";
    by("send").classList.toggle("stop", isRunning);
    const label = isText ? (isEmpty ? "A text to continue" : "More of the text, or nothing") : "Message";
    by("input").placeholder = label;
    by("input-label").textContent = label;
    const took = this.conversation.messages.findLast((message) => message.took)?.took;
    const { context } = this.server;
    const used = took ? took.prompt + took.tokens : 0;
    by("used").textContent = used ? `${count(used)}${context ? ` of ${count(context)}` : ""} tokens` : "";
  }

  follow() {
    if (this.isAtEnd) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  toEnd() {
    this.isAtEnd = true;
    this.follow();
    by("to-end").hidden = true;
    by("input").focus();
  }

  watchEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    by("to-end").hidden = this.isAtEnd;
  }
}
