// Conversations as this browser keeps them: each under a key of its own, and no more than there is room for.

const PREFIX = "tplaunch:conversation:";
const DEFAULTS = "tplaunch:settings";
export const MAX_CONVERSATIONS = 100;
export const MAX_CHARACTERS = 4_000_000; // browsers give 5 million, for all

const kept = new Map(); // all conversations, by id
let isKeeping = true;

function parsed(text) {
  try {
    const found = JSON.parse(text);
    return typeof found?.id === "string" && Array.isArray(found.messages) ? found : null;
  } catch {
    return null;
  }
}

export function load() {
  kept.clear();
  try {
    for (const key of Object.keys(localStorage)) {
      const found = key.startsWith(PREFIX) ? parsed(localStorage.getItem(key)) : null;
      if (found) kept.set(found.id, found);
    }
  } catch {
    isKeeping = false;
  }
  return isKeeping;
}

// Takes what another tab has written; returns the conversation's id, or null for another key.
export function take({ key, newValue }) {
  if (!key?.startsWith(PREFIX)) return null;
  const id = key.slice(PREFIX.length);
  const found = newValue && parsed(newValue);
  if (found) kept.set(id, found);
  else kept.delete(id);
  return id;
}

export const get = (id) => kept.get(id);
export const all = () => [...kept.values()].sort((a, b) => b.updated - a.updated);

export function make(mode) {
  const now = Date.now();
  const id = `${now.toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
  return { id, title: "", created: now, updated: now, ...defaults(), mode, messages: [] };
}

function defaults() {
  try {
    const { system = "", settings = {} } = JSON.parse(localStorage.getItem(DEFAULTS)) ?? {};
    return { system, settings };
  } catch {
    return { system: "", settings: {} };
  }
}

export function setDefaults({ system, settings }) {
  try {
    localStorage.setItem(DEFAULTS, JSON.stringify({ system, settings }));
  } catch {
    // They are this conversation's all the same.
  }
}

export function title(conversation) {
  const first = conversation.messages.find(({ content }) => content)?.content ?? "";
  return first.trim().replace(/\s+/g, " ").slice(0, 80) || "New conversation";
}

// Keeps a conversation. Returns a sentence where something had to go, or this one can't be kept.
export function put(conversation) {
  conversation.title = title(conversation);
  kept.set(conversation.id, conversation);
  if (!isKeeping) return "This browser keeps no conversations: export what you want to have.";
  const text = JSON.stringify(conversation);
  const gone = makeRoom(conversation.id, text.length);
  for (;;) {
    try {
      localStorage.setItem(PREFIX + conversation.id, text);
      return gone ? `The ${gone > 1 ? `${gone} oldest conversations` : "oldest conversation"} made room for this one.` : "";
    } catch {
      const oldest = all().findLast(({ id }) => id !== conversation.id);
      if (!oldest) return "This conversation is too long for this browser to keep: export it.";
      remove(oldest.id);
    }
  }
}

function makeRoom(id, size) {
  const others = all().filter((one) => one.id !== id);
  let room = MAX_CHARACTERS - size;
  let gone = 0;
  others.forEach((one, index) => {
    room -= localStorage.getItem(PREFIX + one.id)?.length ?? 0;
    if (room >= 0 && index < MAX_CONVERSATIONS - 1) return;
    remove(one.id);
    gone += 1;
  });
  return gone;
}

export function remove(id) {
  kept.delete(id);
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // Nothing was kept.
  }
}

export const asJson = () => JSON.stringify({ format: "tplaunch conversations 1", conversations: all() }, null, 1);

export function asMarkdown({ title: name, system, messages }) {
  const parts = [`# ${name}`];
  if (system) parts.push(`**System:** ${system}`);
  for (const { role, content } of messages) parts.push(`## ${role === "user" ? "You" : "Model"}`, content);
  return `${parts.join("\n\n")}\n`;
}
