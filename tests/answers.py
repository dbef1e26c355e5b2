"""Reads answers piece by piece, and finds in a template's rendering what the model would have written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, find_format
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)
from tplaunch.coordinator.text.chat.template import ChatTemplate

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city"},
                "days": {"type": "integer", "description": "How many"},
                "options": {
                    "type": "object",
                    "description": "More",
                    "additionalProperties": {"type": "string"},
                    "properties": {"units": {"type": "array", "items": {"type": "string"}}},
                },
                "wind": {"type": "boolean", "description": "With wind"},
                "code": {"type": "string", "description": "A postal code"},
            },
            "required": ["city"],
        },
    },
}
NOW = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Tells the time",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
TOOLS: list[dict[str, Any]] = [WEATHER, NOW]
# Each ends an answer; the one that runs an answer does not show them.
ENDS = (
    *("<|im_end|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "</s>", "<|eot_id|>", "<|eom_id|>"),
    *(
        "<|START_OF_TURN_TOKEN|>",
        "<|end_of_text|>",
        "[e~[",
        "<turn|>",
        "<|tool_response>",
        "<|role_end|>",
        "<|end_of_msg|>",
    ),
    *("<SPECIAL_12>", "\n\n<sep>", "\n</assistant>", "<｜hy_eos:opensource｜>", "<|eot|>"),
)
_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|\[/?[A-Z_]{3,20}\]|</?[a-z_:]{3,24}>|<\|[a-z_]+>|<[a-z_]+\|>"
    r"|<\|\"\|>|\]<\]minimax\[>\["
)


@dataclass
class Answer:
    """All of an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    @property
    def named_calls(self) -> list[tuple[str, Any]]:
        return [(call.name, json.loads(call.arguments)) for call in self.calls]


@dataclass
class Call:
    name: str
    id: str | None
    arguments: str = ""
    is_complete: bool | None = None


def joined(pieces: Iterable[Piece]) -> Answer:
    """Adds up pieces, and checks that they come in a possible order."""
    answer = Answer()
    for piece in pieces:
        if isinstance(piece, Content):
            answer.content += piece.text
        elif isinstance(piece, Reasoning):
            answer.reasoning += piece.text
        elif isinstance(piece, CallBegin):
            assert piece.index == len(answer.calls)
            assert not answer.calls or answer.calls[-1].is_complete is not None
            answer.calls.append(Call(piece.name, piece.id))
        else:
            assert piece.index == len(answer.calls) - 1 and answer.calls[-1].is_complete is None
            if isinstance(piece, CallArguments):
                answer.calls[-1].arguments += piece.text
            else:
                assert isinstance(piece, CallEnd)
                answer.calls[-1].is_complete = piece.is_complete
    assert not answer.calls or answer.calls[-1].is_complete is not None
    return answer


def read(
    answers: AnswerFormat,
    text: str,
    *,
    prompt_end: str = "",
    tools: Sequence[dict[str, Any]] | None = TOOLS,
    cuts: Iterable[int] = (),
) -> Answer:
    """Reads a text cut at some places."""
    reader = answers.reader(prompt_end, tools)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces: list[Piece] = []
    for start, end in pairwise(places):
        pieces += reader.push(text[start:end])
    return joined([*pieces, *reader.finish()])


def written_answer(
    template: ChatTemplate, message: dict[str, Any], tools: Any = TOOLS, **extra: Any
) -> tuple[str, str]:
    """Returns the end of the prompt, and the answer behind it as a model would have written it."""
    user = {"role": "user", "content": "What?"}
    prompt = template.render([user], tools=tools, **extra)
    whole = template.render(
        [user, {"role": "assistant", **message}], tools=tools, add_generation_prompt=False, **extra
    )
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    opened = whole.rfind("<", 0, start)
    if whole.rfind(">", 0, start) < opened:  # two markers begin alike
        start = opened
    answer = whole[start:].removeprefix("<|CHATBOT_TOKEN|>")  # where another instruction ends the prompt
    for end in ENDS:
        answer = answer.partition(end)[0]
    return whole[:start][-200:], answer.removesuffix("<|message_sep|>\n\n").removesuffix("<|end|>")


def control_tokens(text: str) -> dict[str, int]:
    """Ids for what looks like control tokens; the ids lie behind those of the bytes."""
    names = sorted(set(_CONTROL.findall(text)))
    return {name: 256 + number for number, name in enumerate(names)}


def named(name: str, template: str = "", tokens: dict[str, int] | None = None) -> AnswerFormat:
    return find_format(template, tokens or {}, override=name)


def calls(answer: Answer) -> list[tuple[str, Any]]:
    assert all(call.is_complete for call in answer.calls)
    return answer.named_calls


def tool(**properties: Any) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    return [{"type": "function", "function": {"name": "f", "parameters": schema}}]
