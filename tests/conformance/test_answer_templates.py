"""Reads back what real templates write of reasoning and calls, which the grammars of calls accept, too.

A template shows what its model was trained to write: an assistant's message is rendered, and the reader must
find in it the name, the arguments and the reasoning that went in.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.answers import TOOLS, control_tokens, read, written_answer
from tests.masks import accepts
from tplaunch.coordinator.text.answers.answer_format import NO_TOOLS, AnswerFormat, find_format
from tplaunch.coordinator.text.chat.template import ChatTemplate, ChatTemplateError

FORMATS = {
    "Apertus-8B-Instruct": "apertus",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "Cohere2MoE": "cohere",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "cohere",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm",
    "GigaChat3-10B-A1.8B": "gigachat",
    "GigaChat3.1-10B-A1.8B": "gigachat-3.1",
    "HuggingFaceTB-SmolLM3-3B": NO_TOOLS,
    "Kimi-K2-Instruct": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K3": "kimi-k3",
    "LFM2.5-8B-A1B": "lfm2",
    "LFM2.5-Instruct": NO_TOOLS,
    "MiMo-VL": "hermes",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "minimax-m3",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen3-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen3-Coder": "qwen3-coder",
    "Qwen3.5-4B": "qwen3-coder",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm",
    "StepFun3.5-Flash": "qwen3-coder",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-v4",
    "fireworks-ai-llama-3-firefunction-v2": "firefunction",
    "google-gemma-4-31B-it": "gemma",
    "google-gemma-4-31B-it-interleaved": "gemma",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "inclusionai-ling-3.0-flash": "glm",
    "llama-cpp-rwkv-world": NO_TOOLS,
    "meetkai-functionary-medium-v3.1": "functionary",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral-args",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse-glimmer": "muse",
    "openbmb-MiniCPM5-1B": "minicpm",
    "poolside-Laguna-XS.2": "glm",
    "tencent-Hy3": "hy3",
    "unsloth-mistral-Devstral-Small-2507": "mistral-args",
    "upstage-Solar-Open-100B": "solar",
}
# Templates that tell of tools, or not even that, but write no call that an assistant's message holds.
WRITES_NO_CALL = {
    "ibm-granite-granite-3.3-2B-Instruct",
    *(name for name in FORMATS if FORMATS[name] == NO_TOOLS),
}
# Templates that fail for a message with calls: the sandbox lets nothing append to a list.
REFUSES_CALLS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking"}
SINGLE = {"llama3", "gigachat", "gigachat-3.1"}  # formats of one call an answer
VARIABLES = {"functions": "[]", "datetime": "today"}  # what one template asks for
ARGUMENTS: dict[str, Any] = {
    "city": 'A "B" C\nD <b>',
    "days": 3,
    "options": {"units": ["metric", "long"]},
    "wind": True,
    "code": "0150",
}
# Opens reasoning before every text, which has to close it itself, and writes calls in another message.
OPENS_REASONING = "NVIDIA-Nemotron-Nano-v2"


def call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


CALLS = [call(1, "get_weather", ARGUMENTS), call(2, "now", {})]


@pytest.fixture(scope="module")
def folder(shared_dir: Path) -> Path:
    if not (shared_dir / "templates/rendered.json").is_file():
        pytest.skip("no templates: ../shared/templates is not there")
    return shared_dir / "templates"


@pytest.fixture(scope="module", params=sorted(FORMATS))
def opened(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, ChatTemplate, AnswerFormat]]:
    source = (folder / f"{request.param}.jinja").read_text()
    template = ChatTemplate(source, "<s>", "</s>", clock=lambda: datetime(2026, 1, 2))
    yield request.param, template, find_format(source, {})
    template.close()


def test_each_template_has_its_format(folder: Path) -> None:
    sources = {path.stem: path.read_text() for path in folder.glob("*.jinja")}
    assert {name: find_format(source, {}).name for name, source in sources.items()} == FORMATS


def test_a_call_is_read_back(opened: tuple[str, ChatTemplate, AnswerFormat]) -> None:
    name, template, answers = opened
    message = {"content": "", "tool_calls": CALLS[:1]}
    if name in REFUSES_CALLS:
        with pytest.raises(ChatTemplateError, match="append"):
            written_answer(template, message, **VARIABLES)
        return
    prompt_end, text = written_answer(template, message, **VARIABLES)
    answer = read(answers, text, prompt_end=prompt_end)
    if name in WRITES_NO_CALL:
        assert answer.calls == [] and "get_weather" not in text
        return
    assert answer.named_calls == [("get_weather", ARGUMENTS)], text
    assert answer.content == "" and answer.reasoning == ""
    assert all(each.is_complete for each in answer.calls)
    pieces = read(answers, text, prompt_end=prompt_end, cuts=range(len(text)))
    assert pieces == answer


def test_reasoning_text_and_calls_are_read_back(opened: tuple[str, ChatTemplate, AnswerFormat]) -> None:
    name, template, answers = opened
    if name in WRITES_NO_CALL | REFUSES_CALLS | {OPENS_REASONING}:
        return
    calls = CALLS[:1] if answers.name in SINGLE else CALLS
    thoughts = {"reasoning_content": "THOUGHT one\n\ntwo", "thinking": "THOUGHT one\n\ntwo"}
    message = {"content": "TEXT <one> two", "tool_calls": calls, **thoughts}
    prompt_end, text = written_answer(template, message, **VARIABLES)
    answer = read(answers, text, prompt_end=prompt_end)
    expected = [(each["function"]["name"], each["function"]["arguments"]) for each in calls]
    assert answer.named_calls == expected, text
    assert answer.reasoning == ("THOUGHT one\n\ntwo" if "THOUGHT" in text else ""), text
    assert answer.content.strip() == ("TEXT <one> two" if "TEXT" in text else ""), text
    assert read(answers, text, prompt_end=prompt_end, cuts=range(len(text))) == answer


def test_reasoning_and_text_are_read_back(opened: tuple[str, ChatTemplate, AnswerFormat]) -> None:
    name, template, answers = opened
    thoughts = {"reasoning_content": "THOUGHT one\n\ntwo", "thinking": "THOUGHT one\n\ntwo"}
    prompt_end, text = written_answer(template, {"content": "TEXT\n\n{more}", **thoughts}, **VARIABLES)
    for tools in (TOOLS, None):
        answer = read(answers, text, prompt_end=prompt_end, tools=tools)
        assert answer.calls == []
        if name == OPENS_REASONING:
            assert answer.reasoning == "TEXT\n\n{more}"
            continue
        assert answer.content.strip() == "TEXT\n\n{more}", text
        assert answer.reasoning == ("THOUGHT one\n\ntwo" if "THOUGHT" in text else ""), text


@pytest.mark.parametrize("has_tokens", [False, True])
def test_grammars_accept_what_templates_write(
    opened: tuple[str, ChatTemplate, AnswerFormat], folder: Path, has_tokens: bool
) -> None:
    name, template, _ = opened
    source = (folder / f"{name}.jinja").read_text()
    if name in WRITES_NO_CALL | REFUSES_CALLS:
        return
    answers = find_format(source, {})
    calls = CALLS[:1] if answers.name in SINGLE else CALLS
    prompt_end, text = written_answer(template, {"content": "", "tool_calls": calls}, **VARIABLES)
    tokens = control_tokens(prompt_end + text) if has_tokens else {}
    answers = find_format(source, tokens)
    if answers.layout.frames is None:
        if answers.reasoning is not None and answers.reasoning.end in text:
            text = text.partition(answers.reasoning.end)[2]
        text = text.strip()
    grammar = answers.call_grammar(TOOLS)
    assert grammar is not None
    assert accepts(grammar, text, tokens) == text, grammar
    single = answers.call_grammar(TOOLS, names=["now"], parallel=False)
    assert single is not None and accepts(single, text, tokens) != text
