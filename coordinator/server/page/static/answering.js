// Asks for an answer, and writes it into its message as it comes. It knows no document.
import { events } from "./api.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const TEXT_TOKENS = 128; // of a text that goes on, where nobody says; the protocol's own number is 16

export function sampling(settings) {
  const body = {};
  for (const name of NUMBERS) {
    const value = settings[name];
    if (value !== undefined && value !== "") body[name] = Number(value);
  }
  if (settings.stop) body.stop = [settings.stop];
  return body;
}

// The messages as the server gets them: reasoning of answers is left away, as templates do.
function chatBody({ system, settings, messages }, index, isGoingOn) {
  const sent = messages.slice(0, isGoingOn ? index + 1 : index).filter(({ content }) => content);
  const said = sent.map(({ role, content }) => ({ role, content }));
  if (system) said.unshift({ role: "system", content: system });
  const body = { messages: said, ...sampling(settings) };
  if (settings.thinking) body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  if (isGoingOn) Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  return body;
}

function textBody({ settings, messages }, index, isGoingOn) {
  const before = messages.slice(0, isGoingOn ? index + 1 : index);
  const prompt = before.map(({ content }) => content).join("");
  return { prompt, max_tokens: TEXT_TOKENS, ...sampling(settings) };
}

function take(message, event, isText) {
  const [choice] = event.choices ?? [];
  if (choice) {
    message.content += (isText ? choice.text : choice.delta?.content) ?? "";
    message.reasoning += (isText ? "" : choice.delta?.reasoning_content) ?? "";
    if (choice.finish_reason) message.end = choice.finish_reason;
  }
  return event.usage;
}

// Fills the message at an index of a conversation. grew() is called after each piece.
export async function answer(conversation, index, { model, signal, grew, isGoingOn = false }) {
  const message = conversation.messages[index];
  const isText = conversation.mode === "text";
  const path = isText ? "v1/completions" : "v1/chat/completions";
  const body = (isText ? textBody : chatBody)(conversation, index, isGoingOn);
  Object.assign(body, { model: model || undefined, stream: true, stream_options: { include_usage: true } });
  if (isGoingOn) {
    delete message.end;
    delete message.error;
  } else {
    conversation.messages[index] = Object.assign(message, { content: "", reasoning: "" });
    for (const name of ["end", "error", "took", "seconds"]) delete message[name];
  }
  const begin = performance.now();
  const since = () => (performance.now() - begin) / 1000;
  let first = null;
  try {
    for await (const event of events(path, body, signal)) {
      const before = message.content.length + message.reasoning.length;
      const wasThinking = message.content === "";
      const usage = take(message, event, isText);
      if (message.content.length + message.reasoning.length > before) first ??= since();
      if (wasThinking && message.content && message.reasoning) message.seconds = since();
      if (usage) {
        const thinking = usage.completion_tokens_details?.reasoning_tokens ?? 0;
        message.took = { tokens: usage.completion_tokens, prompt: usage.prompt_tokens, first: first ?? since(), seconds: since(), thinking };
      }
      grew();
    }
  } catch (error) {
    if (error.name === "AbortError") message.end = "stopped";
    else Object.assign(message, { end: error.kind ?? "error", error: error.message });
  }
  return message;
}
