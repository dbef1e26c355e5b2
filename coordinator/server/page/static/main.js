// Puts the page together: the conversation, the list, the settings, the ranks, the keys.
import { Chat } from "./chat.js";
import { by, copy, notice, say } from "./dom.js";
import { List } from "./list.js";
import { Ranks } from "./ranks.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { welcome } from "./welcome.js";

const THEMES = ["system", "light", "dark"];
const input = by("input");
let server = null;
let told = "ok"; // of the model's health

const chat = new Chat({ onChange: showList, onWelcome: () => welcome(server) });
const list = new List({ onOpen: (id) => open(store.get(id)), onNew: begin, onDelete: forget });
const settings = new Settings((conversation) => {
  if (conversation.messages.length) chat.keep(conversation);
  chat.showState();
  input.focus();
});
const ranks = new Ranks(showServer);

function showList() {
  list.show(chat.conversation, chat.running);
}

function open(conversation) {
  chat.open(conversation);
  history.replaceState(null, "", conversation.messages.length ? `#${conversation.id}` : location.pathname);
  document.title = conversation.messages.length ? `${conversation.title} – tplaunch` : "tplaunch";
  showList();
  grow();
  tellMode();
}

// A conversation with a model that could chat, before one that can't.
function tellMode() {
  const { mode, messages } = chat.conversation;
  if (server?.chat === false && mode === "chat" && messages.length)
    notice("This model has no chat template, so it answers no messages: begin a new conversation, and it continues texts.");
}

function begin() {
  open(store.make(server?.chat === false ? "text" : "chat"));
  input.focus();
}

function forget(ids) {
  for (const id of ids) chat.forget(id);
  say(ids.length > 1 ? "All conversations are deleted." : "The conversation is deleted.");
  if (ids.includes(chat.conversation.id)) begin();
  else showList();
}

function showServer(found, error) {
  if (!found) {
    if (server) by("model").textContent = error.kind === "lost" ? "the server can’t be reached" : error.message;
    else if (error.kind !== "lost") notice(error.message);
    return;
  }
  by("model").textContent = found.model;
  showHealth(found.health);
  const isFirst = !server || server.model !== found.model || server.chat !== found.chat;
  server = found;
  chat.server = found;
  if (isFirst) tellMode();
  if (isFirst && !chat.conversation.messages.length) {
    if (!found.chat) chat.conversation.mode = "text";
    chat.open(chat.conversation);
  }
}

// While the model does not run, a sentence says why.
function showHealth({ state, reason }) {
  if (state === told) return;
  told = state;
  notice(state === "ok" ? "" : `${reason ?? state}.`);
}

// The message grows with what is written, as far as there is room.
function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

async function send() {
  if (!server) {
    await asked; // what the model can do
    if (chat.isRunning) return;
  }
  if (chat.isRunning) {
    chat.stop();
    return;
  }
  if (!chat.send(input.value)) return;
  input.value = "";
  grow();
  history.replaceState(null, "", `#${chat.conversation.id}`);
  document.title = `${chat.conversation.title} – tplaunch`;
}

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  by("theme-name").textContent = `Theme: ${theme}`;
  by("theme").title = `Theme: ${theme}`;
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  setTheme(next);
  try {
    localStorage.setItem("tplaunch:theme", next);
  } catch {
    // It is kept until the page is closed.
  }
  say(`Theme: ${next}.`);
}

function step(by) {
  const all = store.all();
  const at = all.findIndex(({ id }) => id === chat.conversation.id);
  const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  if (next && next.id !== chat.conversation.id) open(next);
}

const openSettings = () => settings.open(chat.conversation, server?.chat !== false);
const WITH_ALT = {
  KeyN: begin,
  KeyR: () => chat.lastAgain(),
  KeyS: openSettings,
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
};

function onKey(event) {
  const isWriting = event.target.matches("input, textarea, select");
  const { key, code, altKey, ctrlKey, metaKey } = event;
  if (document.querySelector("dialog[open]")) return;
  if (altKey && !ctrlKey && !metaKey && WITH_ALT[code]) WITH_ALT[code]();
  else if (key === "Escape" && chat.isRunning) chat.stop();
  else if (key === "/" && !isWriting) input.focus();
  else if (key === "?" && !isWriting) by("help").showModal();
  else if (key === "ArrowUp" && event.target === input && !input.value && !chat.isRunning) chat.editLast();
  else return;
  event.preventDefault();
}

function onInputKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!chat.isRunning) send();
}

by("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
input.addEventListener("keydown", onInputKey);
input.addEventListener("input", grow);
document.addEventListener("keydown", onKey);
document.addEventListener("click", ({ target }) => {
  if (!target.matches("[data-copy]")) return;
  copy(target.closest("figure").querySelector("code").textContent, target);
});
by("settings-open").addEventListener("click", openSettings);
by("help-open").addEventListener("click", () => by("help").showModal());
by("theme").addEventListener("click", nextTheme);
addEventListener("storage", (event) => {
  const id = store.take(event);
  if (id === null) return;
  const isShown = id === chat.conversation.id && !chat.isRunning;
  if (isShown && store.get(id)) open(store.get(id));
  else showList();
});

setTheme(document.documentElement.dataset.theme ?? "system");
if (!store.load()) notice("This browser keeps no conversations: export what you want to have.");
open(store.get(location.hash.slice(1)) ?? store.make("chat"));
input.focus();
const asked = ranks.ask();
