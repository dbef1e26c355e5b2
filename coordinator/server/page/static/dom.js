// Small helpers for what every module does with the document.

export const by = (id) => document.getElementById(id);

// An element: attributes as an object (handlers by their names, as onclick), then its children.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export const button = (label, onclick, attributes = {}) =>
  el("button", { type: "button", onclick, ...attributes }, label);

// For those who hear the page.
export function say(text) {
  by("live").textContent = text;
}

export function notice(text) {
  by("notice").textContent = text;
  by("notice").hidden = !text;
}

// A question that is answered with yes or no.
export function ask(title, text) {
  const dialog = by("ask");
  by("ask-title").textContent = title;
  by("ask-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

export async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByHand(text); // the clipboard is there for https and localhost only
  }
  const label = from.textContent;
  from.textContent = "copied";
  say("Copied.");
  setTimeout(() => (from.textContent = label), 1200);
}

function copyByHand(text) {
  const field = el("textarea", { class: "unseen", readonly: true });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  const before = document.activeElement;
  field.select();
  document.execCommand("copy");
  field.remove();
  before?.focus();
}

export function save(name, kind, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const places = (digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const formats = [places(0), places(1), places(2)];

// A number as people read it: three digits that matter, thousands apart.
export function figure(value) {
  const size = Math.abs(value);
  return formats[size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2].format(value);
}

export const count = (value) => formats[0].format(value);

export function duration(microseconds) {
  if (microseconds >= 1e6) return `${figure(microseconds / 1e6)} s`;
  return microseconds >= 1000 ? `${figure(microseconds / 1000)} ms` : `${figure(microseconds)} µs`;
}
