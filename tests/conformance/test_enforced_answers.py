"""Calls and forms are enforced for templates of all formats, and read back from the answers.

The model writes nonsense: what it may write is up to the grammars, and what comes of it to the readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.writing_model import Writing, writing
from tplaunch.coordinator.serving.opened import ChatOptions

NAMES = [
    *("Apertus-8B-Instruct", "Bielik-11B-v3.0-Instruct", "Cohere2MoE", "GLM-4.6", "GigaChat3-10B-A1.8B"),
    *("GigaChat3.1-10B-A1.8B", "Kimi-K2-Thinking", "Kimi-K3", "LFM2.5-8B-A1B", "MiniMax-M2", "MiniMax-M3"),
    *("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NVIDIA-Nemotron-Nano-v2", "Qwen-QwQ-32B", "Qwen3-Coder"),
    *("Qwen3.5-4B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.1"),
    *("deepseek-ai-DeepSeek-V4-Flash-0731", "google-gemma-4-31B-it", "ibm-granite-granite-3.3-2B-Instruct"),
    *("meetkai-functionary-medium-v3.1", "meta-llama-Llama-3.1-8B-Instruct", "muse-glimmer"),
    *("mistralai-Ministral-3-14B-Reasoning-2512", "mistralai-Mistral-Nemo-Instruct-2407"),
    *("openbmb-MiniCPM5-1B", "tencent-Hy3", "upstage-Solar-Open-100B"),
]
HARMONY = (  # as gpt-oss's templates write it
    "{% for message in messages %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>"
    "{% endfor %}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}<|start|>assistant"
    "{# <|channel|>analysis <|channel|>final <|constrain|> <|call|> <|return|> #}"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "wind": {"type": "boolean", "description": "With wind"},
        "unit": {"type": "string", "enum": ["c", "f"], "description": "A unit"},
        "place": {"type": "string", "const": "here", "description": "A place"},
    },
    "required": ["wind", "unit", "place"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "strict": True, "parameters": SCHEMA},
}
OTHER: Any = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Tells the time",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
TOOLS = [TOOL, OTHER]
CHOICES: list[Any] = ["required", {"type": "function", "function": {"name": "weather"}}]
FORM = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
ASKED: dict[str, Any] = {"reasoning_budget": 3, "max_tokens": 600}


@pytest.fixture(scope="module", params=["harmony", *NAMES])
def made(request: pytest.FixtureRequest) -> Iterator[tuple[str, Writing]]:
    if request.param == "harmony":
        template = HARMONY
    else:
        folder: Path = request.getfixturevalue("shared_dir") / "templates"
        if not folder.is_dir():
            pytest.skip("no templates: ../shared/templates is not there")
        template = (folder / f"{request.param}.jinja").read_text()
    with writing(template) as writer:
        yield request.param, writer


def calls_of(choice: Any) -> list[Any]:
    """Returns the calls, and checks the arguments of those that are whole."""
    assert not isinstance(choice, str), choice
    calls = choice["message"].get("tool_calls") or []
    for place, call in enumerate(calls, 1):
        if place == len(calls) and choice["finish_reason"] == "length":
            continue  # nonsense may go on and on
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "weather":
            jsonschema_rs.validate(SCHEMA, arguments)
    return calls


def test_calls_are_enforced(made: tuple[str, Writing]) -> None:
    name, writer = made
    for choice in CHOICES:
        asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice}
        found = [
            writer.chat(None, **asked, seed=seed, parallel_tool_calls=seed > 0, **ASKED) for seed in range(3)
        ]
        assert all(map(calls_of, found)), found
        assert "tool_calls" in {one["finish_reason"] for one in found}
        for one in found:
            if one["finish_reason"] == "tool_calls":
                assert not one["message"]["content"]
            if "mistral" in name.lower():
                assert all(len(call["id"]) == 9 for call in one["message"]["tool_calls"])


def test_a_form_is_enforced(made: tuple[str, Writing]) -> None:
    _, writer = made
    bodies: list[dict[str, Any]] = [{}, {"tools": TOOLS}]
    for body in bodies:
        for seed in range(2):
            choice = writer.chat(None, response_format=FORM, seed=seed, **body, **ASKED)
            if not calls_of(choice):
                jsonschema_rs.validate(SCHEMA, json.loads(choice["message"]["content"]))


def test_calls_that_begin_by_themselves_are_kept_to_the_schema(made: tuple[str, Writing]) -> None:
    """The model writes the start of a call, and would go on with nonsense."""
    _, writer = made
    answers = writer.server.opened.answer_format(ChatOptions(tools=TOOLS))
    begun = answers.begun_calls(TOOLS)
    assert begun is not None
    starts = [marker for marker, _ in begun.markers] + list(begun.bare)
    reasoning = answers.reasoning
    if reasoning is not None:  # harmony's own, and those that the prompt may have opened
        starts = [f"{reasoning.begin}Hm{reasoning.end}{start}" for start in starts]
    for start in starts:
        script = start.replace("<|end|><|channel|>", "<|end|><|start|>assistant<|channel|>")
        choice = writer.chat(script, tools=TOOLS, max_tokens=600)
        assert calls_of(choice), (script, choice)
