"""Conversations of agents through templates: made-up ones that are particular, and those of known models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_session import FakeRun, demo_model, fake_opened
from tplaunch.coordinator.server.anthropic.request import wanted_of
from tplaunch.coordinator.server.rendering import as_object, rendered
from tplaunch.coordinator.server.settings import LIMITS
from tplaunch.coordinator.server.wanted import ChatRequest
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.chat.template import KEY, ChatTemplateError

USER = {"role": "user", "content": "Hi"}
LATE = {"role": "system", "content": " Be kind. "}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ROLES = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
STRICT = "{% for m in messages[1:] if m.role == 'system' %}{{ raise_exception('too late') }}{% endfor %}"
DROPS = "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}"
CALL_OF = "{% set arguments = messages[-1].tool_calls[0].function.arguments %}"
WRITES = CALL_OF + "{{ messages[-1].content }}{{ arguments | tojson }}"
JOINS = CALL_OF + "{{ 'calls ' + arguments }}"

# Why a template of a known model can't have the calls of a conversation: it knows none, or fails with
# transformers, too, or wants what no protocol has.
NO_CALLS = (
    *("HuggingFaceTB-SmolLM3-3B", "Kimi-K2-Instruct", "Kimi-K2-Thinking", "LFM2.5-Instruct"),
    *("fireworks-ai-llama-3-firefunction-v2", "ibm-granite-granite-3.3-2B-Instruct", "llama-cpp-rwkv-world"),
)
FAILING = ("Kimi-K2-Instruct", "Kimi-K2-Thinking", "fireworks-ai-llama-3-firefunction-v2")


def request(*messages: dict[str, Any], **others: Any) -> ChatRequest:
    return ChatRequest(messages, SamplingParams(), **others)


def text_of(template: str, wanted: ChatRequest) -> str:
    opened = fake_opened(FakeRun(), {**demo_model().metadata, KEY: template})
    try:
        return rendered(opened, wanted)[0]
    finally:
        opened.close()


def test_arguments_are_objects_and_contents_texts() -> None:
    assert text_of(WRITES, request(USER, CALLS)) == '{"town": "Ulm"}'


def test_a_template_that_joins_texts_gets_texts() -> None:
    assert text_of(JOINS, request(USER, CALLS)) == 'calls {"town": "Ulm"}'


def test_arguments_that_are_cut_stop_no_conversation() -> None:
    """Programs send back what they got; a template that wants an object would refuse all that follows."""
    cut = {**CALLS, "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": '{"to'}}]}
    items = CALL_OF + "{% for name, value in arguments | items %}{{ name }}={{ value }}{% endfor %}"
    assert text_of(items, request(USER, cut)) == 'INVALID_JSON={"to'


def test_what_a_client_has_sent_is_not_changed() -> None:
    wanted = request(USER, CALLS)
    before = json.dumps(wanted.messages)
    text_of(WRITES, wanted)
    assert json.dumps(wanted.messages) == before


@pytest.mark.parametrize("arguments", ["{", "[1]", "[" * 100_000, '"a"'])
def test_arguments_that_are_no_object_are_kept(arguments: str) -> None:
    assert as_object(arguments) == {"INVALID_JSON": arguments}


def test_a_late_system_message_keeps_its_place_where_it_may() -> None:
    wanted = request(USER, LATE, may_lower_system=True)
    assert text_of(ROLES, wanted) == "user:Hi;system: Be kind. ;"


@pytest.mark.parametrize("template", [STRICT + ROLES, DROPS])
def test_a_late_system_message_becomes_the_users_where_it_must(template: str) -> None:
    wanted = request(LATE, USER, LATE, {"role": "assistant", "content": "a"}, LATE, may_lower_system=True)
    first = "" if template == DROPS else "system: Be kind. ;"
    assert text_of(template, wanted) == f"{first}user:Hi\n\n Be kind. ;assistant:a;user: Be kind. ;"


@pytest.mark.parametrize("name", ["messages", "self"])
def test_what_templates_have_already_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="can't have messages or self"):
        text_of(ROLES, request(USER, template_kwargs={name: 1}))


def test_a_refusal_has_the_templates_words() -> None:
    with pytest.raises(ChatTemplateError, match="too late"):
        text_of(STRICT, request(USER, LATE))
    with pytest.raises(ChatTemplateError, match="never"):
        text_of("{{ raise_exception('never') }}", request(USER, CALLS, LATE, may_lower_system=True))


@pytest.mark.parametrize("part", range(3))
def test_known_models_take_what_agents_send(shared_dir: Path, part: int) -> None:
    sources = sorted((shared_dir / "templates").glob("*.jinja"))
    if not sources:
        pytest.skip("no templates: ../shared/templates is not there")
    block = {"type": "tool_use", "id": "abcdefghi", "name": "weather", "input": {"town": 'U"lm'}}
    result = {"type": "tool_result", "tool_use_id": "abcdefghi", "content": "RAIN"}
    begun: list[Any] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [result]},
    ]
    late = [
        *({"role": "assistant", "content": "Rain."}, {"role": "user", "content": "So?"}),
        *({"role": "system", "content": "BE KIND."}, {"role": "user", "content": "And now?"}),
    ]
    schema = {"type": "object", "properties": {"town": {"type": "string", "description": "a town"}}}
    tools = [{"name": "weather", "description": "Tells it.", "input_schema": schema}]
    body = {"model": "m", "max_tokens": 5, "system": "BE BRIEF.", "messages": begun, "tools": tools}
    for source in sources[part::3]:
        name, template = source.stem, source.read_text()
        if name in FAILING:
            continue
        text = text_of(template, wanted_of(body, LIMITS).request)
        assert name in NO_CALLS or ("weather" in text and "RAIN" in text), name
        assert name in NO_CALLS or 'U"lm' in text or 'U\\"lm' in text, name
        assert 'U\\\\\\"lm' not in text, f"{name} quotes arguments twice"
        text = text_of(template, wanted_of({**body, "messages": [*begun, *late]}, LIMITS).request)
        assert name in NO_CALLS or "BE KIND." in text, name
