// Talks to the server: the key, errors as sentences, answers as they come.
import { by } from "./dom.js";

const LOST = "The connection was lost before the answer was complete.";
const SILENT = 60_000; // milliseconds without anything; the server sends a sign each ten seconds
const STATUS = 15_000; // milliseconds that the ranks' status may take
const KEY = "tplaunch:key";
let asking = null;
let isDeclined = false; // who gave no key is asked again only for what they ask for themselves

// What went wrong, in a sentence. kind: lost (no server, or it went), refused (it said no).
export class ApiError extends Error {
  constructor(message, kind, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function askForKey(wasWrong) {
  by("key-wrong").hidden = !wasWrong;
  asking ??= new Promise((resolve) => {
    const dialog = by("key");
    const field = dialog.querySelector("input");
    field.value = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        isDeclined = !field.value;
        if (field.value) sessionStorage.setItem(KEY, field.value);
        resolve(!isDeclined);
        field.value = "";
      },
      { once: true },
    );
  });
  return asking;
}

// A promise's result, unless it takes too long.
async function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(reject, milliseconds)));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function sentence(response) {
  const text = await response.text().catch(() => "");
  try {
    const { error, detail } = JSON.parse(text);
    if (error?.message) return error.message;
    if (typeof detail === "string") return detail;
  } catch {
    // No JSON: a proxy's page, say.
  }
  return `the server answered ${response.status} ${response.statusText}`.trim();
}

// A request with the key; asks for one where the server wants it. Throws ApiError, or AbortError.
export async function request(path, { body, signal, method = body ? "POST" : "GET", patient = true } = {}) {
  for (;;) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    const key = stored();
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server can't be reached.", "lost");
    }
    if (response.ok) return response;
    const asks = response.status === 401 && (patient || !isDeclined);
    if (!asks || (key === stored() && !(await askForKey(key !== "")))) throw new ApiError(await sentence(response), "refused", response.status);
  }
}

// The events of an answer, as objects. Throws where it ends before it is complete.
export async function* events(path, body, signal) {
  const response = await request(path, { body, signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const part = await within(SILENT, reader.read());
      if (part.done) break;
      const lines = (rest + decoder.decode(part.value, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message ?? "the answer failed", "refused");
        yield event;
      }
    }
  } catch (error) {
    if (error?.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(LOST, "lost");
  } finally {
    reader.cancel().catch(() => {}); // where it has not ended: the server need not go on
  }
  throw new ApiError(LOST, "lost");
}

export async function render(markdown, growing) {
  return (await request("page/render", { body: { markdown, growing }, patient: false })).json();
}

export async function status() {
  return (await request("page/status", { patient: false, signal: AbortSignal.timeout(STATUS) })).json();
}
