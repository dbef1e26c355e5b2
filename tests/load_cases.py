"""Requests of all kinds for load tests, and what a client makes of the answers, streamed or not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

# A template for any model: calls of tools have Hermes's form.
TEMPLATE = (
    "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    '<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call>\n{% endif %}'
)
WORDS = ("once", "upon", "a", "time", "there", "was", "fox", "who", "lived", "in", "the", "garden", "rabbit")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
}
FORMS: Sequence[dict[str, Any]] = (
    {"guided_json": SCHEMA},
    {"guided_regex": "[a-f]{3,9}"},
    {"guided_choice": ["yes", "no", "perhaps"]},
    {"response_format": {"type": "json_object"}},
)
Answer = dict[str, Any]  # of one request, in a form that streams and whole answers share


@dataclass(frozen=True)
class Case:
    """A request that has one right answer: greedy, or with a seed."""

    path: str
    body: dict[str, Any] = field(hash=False)

    def encoded(self, *, stream: bool) -> bytes:
        """Returns the body."""
        return json.dumps({**self.body, "stream": stream}).encode()

    def answer(self, body: bytes, *, stream: bool) -> Answer:
        """Reads an answer. Raises ValueError or KeyError for one that is not whole, or tells an error."""
        streamed, whole = READERS[self.path]
        if not stream:
            return whole(json.loads(body))
        events = [
            json.loads(line.removeprefix(b"data: "))
            for line in body.split(b"\n")
            if line.startswith(b"data: ") and line != b"data: [DONE]"
        ]
        for event in events:
            if "error" in event or event.get("type") in ("error", "response.failed"):
                raise ValueError(json.dumps(event)[:300])
        return streamed(events)


def make_cases(seed: int, count: int, longest: int, most_tokens: int) -> list[Case]:
    """Returns cases of mixed kinds. longest: words of a prompt. most_tokens: of an answer."""
    draw = random.Random(seed)
    return [_case(draw, longest, most_tokens) for _ in range(count)]


def _case(draw: random.Random, longest: int, most_tokens: int) -> Case:
    length = int(longest ** draw.random())
    prompt = " ".join([f"{draw.randrange(1000)}", *draw.choices(WORDS, k=length)])
    body: dict[str, Any] = {"max_tokens": draw.randint(1, most_tokens)}
    if draw.random() < 0.5:
        body |= {"temperature": 0}
    else:
        body |= {"temperature": 1.0, "seed": draw.randrange(1 << 32), "top_p": 0.9}
    kind = draw.choice((_completion, _completion, _chat, _tools, _responses, _messages))
    return kind(draw, prompt, body)


def _completion(draw: random.Random, prompt: str, body: dict[str, Any]) -> Case:
    given = draw.choice((prompt, [prompt, prompt[::-1]], [draw.randrange(3, 1000) for _ in prompt.split()]))
    others: list[dict[str, Any]] = [{}, {"n": 3}, {"logprobs": 2}, {"echo": True, "logprobs": 1}, *FORMS]
    others += [{"stop": ["e", "the"]}, {"frequency_penalty": 0.5, "logit_bias": {"5": -100}}]
    return Case("/v1/completions", {"prompt": given, **body, **draw.choice(others)})


def _chat(draw: random.Random, prompt: str, body: dict[str, Any]) -> Case:
    others: list[dict[str, Any]] = [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 3}, {"stop": "e"}]
    messages = [{"role": "system", "content": "Tell."}, {"role": "user", "content": prompt}]
    return Case("/v1/chat/completions", {"messages": messages, **body, **draw.choice((*others, *FORMS))})


def _tools(draw: random.Random, prompt: str, body: dict[str, Any]) -> Case:
    tool = {"type": "function", "function": {"name": "tell", "parameters": SCHEMA}}
    messages = [{"role": "user", "content": prompt[:200]}]
    choice = draw.choice(("auto", "required"))
    return Case(
        "/v1/chat/completions", {**body, "messages": messages, "tools": [tool], "tool_choice": choice}
    )


def _responses(draw: random.Random, prompt: str, body: dict[str, Any]) -> Case:
    most = max(16, body.pop("max_tokens"))
    return Case("/v1/responses", {**body, "input": prompt, "max_output_tokens": most, "store": False})


def _messages(draw: random.Random, prompt: str, body: dict[str, Any]) -> Case:
    return Case("/v1/messages", {**body, "model": "any", "messages": [{"role": "user", "content": prompt}]})


def _whole_completion(found: Any) -> Answer:
    return {
        str(one["index"]): {
            "text": one["text"],
            "finish": one["finish_reason"],
            "logprobs": one["logprobs"] and one["logprobs"]["token_logprobs"],
        }
        for one in found["choices"]
    }


def _streamed_completion(events: Sequence[Any]) -> Answer:
    texts: Answer = {}
    for one in (choice for event in events for choice in event["choices"]):
        text = texts.setdefault(str(one["index"]), {"text": "", "finish": None, "logprobs": None})
        text["text"] += one["text"]
        text["finish"] = one["finish_reason"] or text["finish"]
        if one["logprobs"]:
            text["logprobs"] = (text["logprobs"] or []) + one["logprobs"]["token_logprobs"]
    return _finished(texts)


def _whole_chat(found: Any) -> Answer:
    return {
        str(one["index"]): {
            "text": one["message"]["content"] or "",
            "calls": [call["function"] for call in one["message"].get("tool_calls", ())],
            "finish": one["finish_reason"],
            "logprobs": one["logprobs"] and [entry["logprob"] for entry in one["logprobs"]["content"]],
        }
        for one in found["choices"]
    }


def _streamed_chat(events: Sequence[Any]) -> Answer:
    texts: Answer = {}
    for one in (choice for event in events for choice in event["choices"]):
        blank: Answer = {"text": "", "calls": [], "finish": None, "logprobs": None}
        text, delta = texts.setdefault(str(one["index"]), blank), one["delta"]
        text["text"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                text["calls"].append({"name": call["function"]["name"], "arguments": ""})
            text["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        text["finish"] = one["finish_reason"] or text["finish"]
        if one["logprobs"]:
            entries = [entry["logprob"] for entry in one["logprobs"]["content"]]
            text["logprobs"] = (text["logprobs"] or []) + entries
    for text in texts.values():
        if text["calls"] and not text["text"].strip():
            text["text"] = ""
    return _finished(texts)


def _finished(texts: Answer) -> Answer:
    if not texts or any(text["finish"] is None for text in texts.values()):
        raise ValueError("a text did not end")
    return texts


def _whole_response(found: Any) -> Answer:
    if found["status"] not in ("completed", "incomplete"):
        raise ValueError(f"the response is {found['status']}")
    parts = [part["text"] for item in found["output"] for part in item.get("content", ())]
    return {"text": "".join(parts), "status": found["status"], "tokens": found["usage"]["output_tokens"]}


def _streamed_response(events: Sequence[Any]) -> Answer:
    text = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
    return {**_whole_response(events[-1]["response"]), "text": text}


def _whole_message(found: Any) -> Answer:
    text = "".join(block["text"] for block in found["content"])
    return {"text": text, "finish": found["stop_reason"], "tokens": found["usage"]["output_tokens"]}


def _streamed_message(events: Sequence[Any]) -> Answer:
    text = "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta")
    (end,) = [one for one in events if one["type"] == "message_delta"]
    return {"text": text, "finish": end["delta"]["stop_reason"], "tokens": end["usage"]["output_tokens"]}


READERS: dict[str, tuple[Callable[[Sequence[Any]], Answer], Callable[[Any], Answer]]] = {
    "/v1/completions": (_streamed_completion, _whole_completion),
    "/v1/chat/completions": (_streamed_chat, _whole_chat),
    "/v1/responses": (_streamed_response, _whole_response),
    "/v1/messages": (_streamed_message, _whole_message),
}
