// The list of conversations, which is a drawer on narrow screens.
import { ask, button, by, el, save } from "./dom.js";
import * as store from "./store.js";

export class List {
  constructor({ onOpen, onNew, onDelete }) {
    this.onOpen = onOpen;
    this.onDelete = onDelete;
    this.narrow = matchMedia("(max-width: 820px)");
    by("new").addEventListener("click", () => {
      this.close();
      onNew();
    });
    by("export").addEventListener("click", () => save("conversations.json", "application/json", store.asJson()));
    by("delete-all").addEventListener("click", () => this.deleteAll());
    by("menu").addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    by("shade").addEventListener("click", () => this.close());
    by("conversations").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isOpen) return;
      event.stopPropagation();
      this.close();
      by("menu").focus();
    });
  }

  get isOpen() {
    return document.body.classList.contains("menu-open");
  }

  open() {
    this.toggle(true);
    by("new").focus();
  }

  close() {
    this.toggle(false);
  }

  toggle(isOpen) {
    document.body.classList.toggle("menu-open", isOpen);
    by("menu").setAttribute("aria-expanded", isOpen);
    by("shade").hidden = !isOpen;
  }

  show(current, running) {
    const all = store.all();
    const shown = JSON.stringify(all.map(({ id, title }) => [id, title, id === current.id, running.has(id)]));
    if (shown === this.shown) return;
    this.shown = shown;
    const rows = all.map((one) => this.row(one, one.id === current.id, running.has(one.id)));
    const focused = [...by("list").querySelectorAll("button")].indexOf(document.activeElement);
    by("list").replaceChildren(...rows);
    by("list").querySelectorAll("button")[focused]?.focus();
    by("export").disabled = by("delete-all").disabled = !rows.length;
  }

  row(conversation, isCurrent, isRunning) {
    const { id, title } = conversation; // another tab may have changed the rest since
    const open = button(title, () => {
      this.close();
      this.onOpen(id);
    });
    open.className = "open";
    if (isCurrent) open.setAttribute("aria-current", "true");
    const about = { class: "small", "aria-label": `Save “${title}” as markdown`, title: "Save as markdown" };
    const saved = button("↓", () => save(`${fileName(title)}.md`, "text/markdown", store.asMarkdown(store.get(id))), about);
    const deleted = button("×", () => this.delete(conversation), {
      class: "small",
      "aria-label": `Delete “${title}”`,
      title: "Delete",
    });
    return el("li", { class: isRunning ? "running" : null }, open, saved, deleted);
  }

  async delete({ id, title }) {
    if (await ask("Delete this conversation?", title)) this.onDelete([id]);
  }

  async deleteAll() {
    const ids = store.all().map(({ id }) => id);
    if (await ask("Delete all conversations?", `${ids.length} of them, for good.`)) this.onDelete(ids);
  }
}

const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
