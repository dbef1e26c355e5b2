// Talks to the server: the key, errors as sentences, answers as they come.
import { by } from "./dom.js";

const KEY = "tplaunch:key";
let asking = null;

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

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = by("key");
    const field = dialog.querySelector("input");
    field.value = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        if (field.value) sessionStorage.setItem(KEY, field.value);
        resolve(field.value !== "");
        field.value = "";
      },
      { once: true },
    );
  });
  return asking;
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
    const asks = response.status === 401 && patient;
    if (!asks || !(await askForKey())) throw new ApiError(await sentence(response), "refused", response.status);
  }
}

// The events of an answer, as objects. Throws where it ends before it is complete.
export async function* events(path, body, signal) {
  const response = await request(path, { body, signal });
  let rest = "";
  try {
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
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
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection was lost before the answer was complete.", "lost");
  }
  throw new ApiError("The connection was lost before the answer was complete.", "lost");
}

export async function render(markdown, growing) {
  return (await request("page/render", { body: { markdown, growing } })).json();
}

export async function status(signal) {
  return (await request("page/status", { signal })).json();
}
