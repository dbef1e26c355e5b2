"""Tools, reasoning and forms through all protocols, with a model that writes what a test tells it.

What is enforced is enforced by real grammars: where the model is told nothing, it writes nonsense.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.answers import NOW
from tests.serving import NAME, events
from tests.writing_model import Writing, writing
from tplaunch.coordinator.serving.grammar.compiler import Grammar, GrammarCompiler
from tplaunch.coordinator.serving.grammar.spec import GrammarSpec

TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Call with <tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = TEMPLATE.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% elif opens %}<think>\n{% endif %}{% endif %}"
)
TRIP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "trip",
        "parameters": {
            "type": "object",
            "properties": {
                "days": {"type": "integer", "minimum": 1, "maximum": 99},
                "by": {"type": "string", "enum": ["rail", "road"]},
                "back": {"type": "boolean"},
            },
            "required": ["days", "by", "back"],
            "additionalProperties": False,
        },
    },
}
NOW_FUNCTION: Any = NOW["function"]
TOOLS: list[Any] = [TRIP, NOW]
STRICT: list[Any] = [{"type": "function", "function": {**TRIP["function"], "strict": True}}, NOW]
FLAT: Any = {"type": "function", **TRIP["function"]}
OURS: Any = {"name": "trip", "input_schema": TRIP["function"]["parameters"]}
CALL = '<tool_call>\n{"name": "now", "arguments": {"a": [1, "b"]}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "now"}}
SCHEMA: Any = TRIP["function"]["parameters"]
FORM: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}


class Trip(BaseModel):
    days: int
    by: Literal["rail", "road"]
    back: bool


@pytest.fixture(scope="module")
def writer() -> Iterator[Writing]:
    with writing(TEMPLATE) as made:
        yield made


@pytest.fixture(scope="module")
def thinker() -> Iterator[Writing]:
    with writing(THINKING) as made:
        yield made


@pytest.fixture
def client(writer: Writing) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{writer.server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(writer: Writing) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=writer.server.url, api_key="none", max_retries=0) as made:
        yield made


def called(choice: Any) -> list[tuple[str, Any]]:
    calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def check_trip(arguments: Any) -> None:
    assert 1 <= Trip.model_validate(arguments, strict=True).days <= 99 and len(arguments) == 3


def test_calls_are_read_with_ids_of_their_own(writer: Writing) -> None:
    choice = writer.chat(f"I look.\n{CALL}\n{CALL}", tools=TOOLS)
    assert called(choice) == [("now", {"a": [1, "b"]})] * 2
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 2 and all(name.startswith("call_") for name in ids)
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "I look."


def test_arguments_stream_as_they_come(writer: Writing) -> None:
    writer.model.write(f"I look.\n{CALL}\n{CALL}")
    body = {"messages": [{"role": "user", "content": "?"}], "tools": TOOLS, "stream": True, "n": 2, "seed": 1}
    with writer.server.one_by_one():
        response = writer.server.post("/v1/chat/completions", **body)
    choices = [choice for event in events(response) for choice in event["choices"]]
    for index in (0, 1):
        mine = [choice for choice in choices if choice["index"] == index]
        calls = [call for choice in mine for call in choice["delta"].get("tool_calls", ())]
        begins = [call for call in calls if "id" in call]
        assert [(call["index"], call["function"]["name"]) for call in begins] == [(0, "now"), (1, "now")]
        for place in (0, 1):
            parts = [call["function"]["arguments"] for call in calls if call["index"] == place]
            assert json.loads("".join(parts)) == {"a": [1, "b"]} and len(parts) > 4
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["tool_calls"]
        assert "".join(choice["delta"].get("content") or "" for choice in mine) == "I look."


def test_one_call_is_taken_where_several_are_not_wanted(writer: Writing) -> None:
    choice = writer.chat(f"{CALL}\n{CALL}", tools=TOOLS, parallel_tool_calls=False)
    assert len(called(choice)) == 1 and choice["finish_reason"] == "tool_calls"
    for seed in range(3):
        must: Any = {"tool_choice": "required", "parallel_tool_calls": False}
        assert len(called(writer.chat(f"{CALL}\n{CALL}", tools=TOOLS, seed=seed, **must))) == 1


@pytest.mark.parametrize(
    ("script", "body"),
    [
        (CALL, {}),
        (CALL, {"tools": TOOLS, "tool_choice": "none"}),
        (CALL.replace("now", "then"), {"tools": TOOLS}),
        (CALL.replace('"name"', "name"), {"tools": TOOLS}),
        ("<tool_call>well", {"tools": TOOLS}),
    ],
)
def test_what_is_no_call_of_a_tool_is_content(writer: Writing, script: str, body: dict[str, Any]) -> None:
    choice = writer.chat(script, skip_special_tokens=False, **body)
    assert choice["message"]["content"] == script and "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("script", [None, "I will not.", CALL.replace("now", "then")])
def test_a_call_can_be_required(writer: Writing, script: str | None) -> None:
    for seed in range(3):
        choice = writer.chat(script, tools=TOOLS, tool_choice="required", seed=seed)
        assert choice["finish_reason"] == "tool_calls" and not choice["message"]["content"]
        for name, arguments in called(choice):
            assert name in ("trip", "now")
            if name == "trip":
                check_trip(arguments)


def test_a_call_can_be_named(writer: Writing) -> None:
    choice = writer.chat(CALL.replace("now", "trip"), tools=TOOLS, tool_choice=NAMED)
    assert {name for name, _ in called(choice)} == {"now"}


def test_calls_that_cannot_be_enforced_are_refused(writer: Writing) -> None:
    form: Any = {"response_format": FORM, "tools": TOOLS, "tool_choice": "required"}
    assert "can't have the form of response_format as well" in writer.chat("", **form)
    plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
    bare: Any = {"chat_template": plain, "tools": TOOLS, "tool_choice": "required"}
    assert "no tools, so that no call can be enforced" in writer.chat("", **bare)
    deep: Any = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": deep}}}}
    assert "within each other" in writer.chat("", tools=[tool], tool_choice="required")


@pytest.mark.parametrize("script", ["Well. <tool_call>", CALL.replace("now", "trip"), f"{CALL}<tool_call>{{"])
def test_a_strict_tool_is_called_by_its_schema(writer: Writing, script: str) -> None:
    """The call begins by itself; its arguments are of the schema, and the text goes on freely."""
    choice = writer.chat(script, tools=STRICT)
    calls = called(choice)
    assert calls and choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ("Well." if script.startswith("Well") else None)
    for name, arguments in calls:
        if name == "trip":
            check_trip(arguments)
    assert writer.chat(script, tools=TOOLS)["message"] != choice["message"]


@pytest.mark.parametrize(
    "wish",
    [
        {"tools": STRICT},
        {"tools": TOOLS, "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_no_grammar_is_compiled_in_the_event_loop(
    writer: Writing, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    compiled, compile_one = [], GrammarCompiler.compile

    def compile_here(self: GrammarCompiler, wanted: GrammarSpec) -> Grammar:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        compiled.append(wanted)
        return compile_one(self, wanted)

    monkeypatch.setattr(GrammarCompiler, "compile", compile_here)
    assert writer.chat(CALL, **wish)["message"] and len(compiled) == 1


def test_a_strict_tool_leaves_texts_without_calls_alone(writer: Writing) -> None:
    script = 'I <tool> do not call. {"name": "trip"}\n\n<tool_cal'
    assert writer.chat(script, tools=STRICT)["message"]["content"] == script


def test_a_model_is_not_shown_which_tools_are_strict(writer: Writing) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "return_token_ids": True, "max_tokens": 1}
    prompts = [
        writer.server.post("/v1/chat/completions", tools=tools, **body).json()["prompt_token_ids"]
        for tools in (TOOLS, STRICT)
    ]
    assert prompts[0] == prompts[1]


def test_another_format_of_calls_can_be_chosen() -> None:
    """The template shows no tools, or others: the option counts."""
    plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with writing(plain, [], tool_format="hermes") as made:
        assert called(made.chat(CALL, tools=TOOLS)) == [("now", {"a": [1, "b"]})]
        assert called(made.chat("No.", tools=TOOLS, tool_choice=NAMED))
    with writing(TEMPLATE, tool_format="none") as made:
        choice = made.chat(CALL, tools=STRICT, skip_special_tokens=False)
        assert choice["message"]["content"] == CALL
        assert "no call can be enforced" in made.chat("", tools=TOOLS, tool_choice="required")


def test_what_a_format_cannot_enforce_of_a_strict_tool_is_refused() -> None:
    """A text between tags is any text; enumerations and numbers hold there, too."""
    with writing(TEMPLATE, tool_format="qwen3-coder") as made:
        parameters = {**SCHEMA, "properties": {**SCHEMA["properties"], "to": {"type": "string"}}}
        tool: Any = {"name": "trip", "strict": True, "parameters": parameters}
        assert "error" not in made.chat("Yes.", tools=[{"type": "function", "function": tool}])
        parameters["properties"]["to"] = {"type": "string", "pattern": "[A-Z]+", "minLength": 2}
        for choice in ("auto", "required"):
            told = made.chat("Yes.", tools=[{"type": "function", "function": tool}], tool_choice=choice)
            assert "minLength, pattern, which can't be enforced in the calls of this model (qwen3-" in told
        tool["strict"] = False
        choice = made.chat("Yes.", tools=[{"type": "function", "function": tool}])
        assert choice["message"]["content"] == "Yes."


def test_a_form_stands_beside_tools(writer: Writing) -> None:
    bodies: list[dict[str, Any]] = [
        {"response_format": FORM},
        {"guided_regex": "[0-9]{4}"},
        {"guided_choice": ["yes", "no"]},
    ]
    for body in bodies:
        told = [writer.chat(script, tools=TOOLS, **body) for script in (CALL, None, "Well.")]
        assert called(told[0]) == [("now", {"a": [1, "b"]})] or body.keys() == {"guided_choice"}
        assert {choice["finish_reason"] for choice in told} <= {"stop", "tool_calls"}
        for choice in told:
            content = choice["message"]["content"]
            if called(choice):
                assert not content
            elif "guided_choice" in body:
                assert content in ("yes", "no")
            else:
                value = json.loads(content)
                if "guided_regex" in body:
                    assert len(content) == 4
                else:
                    check_trip(value)


@pytest.mark.parametrize("kwargs", [{}, {"opens": True}])
@pytest.mark.parametrize("form", [None, FORM])
def test_a_form_begins_behind_the_reasoning(thinker: Writing, kwargs: dict[str, Any], form: Any) -> None:
    begin = "" if kwargs else "<think>\n"
    script = f'{begin}Hm {{\n</think>\n\n{{"days": 3, "by": "rail", "back": true}}'
    choice = thinker.chat(script, response_format=form, chat_template_kwargs=kwargs)
    assert choice["message"]["reasoning_content"].strip() == "Hm {"
    assert choice["message"]["content"] == '{"days": 3, "by": "rail", "back": true}'
    if form is not None:
        other = thinker.chat(f"{begin}Hm.</think>I can't.", response_format=form, chat_template_kwargs=kwargs)
        assert other["message"]["reasoning_content"] == "Hm."
        check_trip(json.loads(other["message"]["content"]))


@pytest.mark.parametrize("budget", [0, 3])
def test_reasoning_has_a_budget(thinker: Writing, budget: int) -> None:
    choice = thinker.chat(
        "abcdefgh", reasoning_budget=budget, chat_template_kwargs={"opens": True}, return_token_ids=True
    )
    assert choice["message"].get("reasoning_content", "") == "abc"[:budget]


def test_a_call_may_be_required_behind_reasoning(thinker: Writing) -> None:
    script = f"<think>I <tool_call></think>\n\n{CALL}"
    choice = thinker.chat(script, tools=TOOLS, tool_choice=NAMED)
    assert called(choice) and {name for name, _ in called(choice)} == {"now"}
    assert choice["message"]["reasoning_content"]


def test_without_reasoning_there_is_none_to_end(writer: Writing, thinker: Writing) -> None:
    """thinking: disabled of a client is no error of a model that never thinks."""
    body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 9, "thinking": {"type": "disabled"}}
    for one in (writer, thinker):
        one.model.write("Yes.")
        answer = one.server.post("/v1/messages", model=NAME, **body).json()
        assert answer["content"] == [{"type": "text", "text": "Yes.", "citations": None}]
        assert one.chat("Yes.", reasoning_effort="none", reasoning_budget=0)["message"]["content"] == "Yes."


def test_a_call_that_is_cut_is_incomplete(writer: Writing) -> None:
    ask: dict[str, Any] = {
        "seed": 1,
        "max_output_tokens": 40,
        "tools": [{"type": "function", **NOW_FUNCTION}],
    }
    writer.model.write(CALL)
    answer = writer.server.post("/v1/responses", input="?", **ask).json()
    (item,) = answer["output"]
    assert answer["status"] == item["status"] == "incomplete" and item["arguments"].startswith('{"a"')
    assert not item["arguments"].endswith("}")
    choice = writer.chat(CALL, tools=TOOLS, max_tokens=40)
    assert choice["finish_reason"] == "length" and choice["message"]["tool_calls"]


def test_a_call_that_goes_wrong_is_incomplete_though_the_answer_is_not(writer: Writing) -> None:
    writer.model.write('<tool_call>\n{"name": "now", "arguments": {"a": oops}}\n</tool_call>')
    flat: Any = {"type": "function", **NOW_FUNCTION}
    answer = writer.server.post("/v1/responses", input="?", tools=[flat], seed=1).json()
    assert answer["status"] == "completed"
    assert [item["status"] for item in answer["output"] if item["type"] == "function_call"] == ["incomplete"]


def test_openais_client_parses_a_form_and_a_call(writer: Writing, client: openai.OpenAI) -> None:
    writer.model.write(None)
    asked: list[Any] = [{"role": "user", "content": "?"}]
    made = client.beta.chat.completions.parse(model=NAME, messages=asked, response_format=Trip, seed=1)
    assert isinstance(made.choices[0].message.parsed, Trip)
    answer = client.responses.parse(model=NAME, input="?", text_format=Trip, extra_body={"seed": 1})
    assert isinstance(answer.output_parsed, Trip)
    tool: Any = openai.pydantic_function_tool(Trip)
    writer.model.write("<tool_call>")
    called_by_itself = client.beta.chat.completions.parse(model=NAME, messages=asked, tools=[tool], seed=1)
    calls = called_by_itself.choices[0].message.tool_calls
    assert calls and all(isinstance(call.function.parsed_arguments, Trip) for call in calls)


def test_responses_call_as_they_must(writer: Writing, client: openai.OpenAI) -> None:
    for tool, choice, script in ((FLAT, "required", None), ({**FLAT, "strict": True}, "auto", "<tool_call>")):
        writer.model.write(script)
        asked: Any = {"tools": [tool], "tool_choice": choice, "extra_body": {"seed": 1}}
        with client.responses.stream(model=NAME, input="?", **asked) as stream:
            deltas = [
                event.delta for event in stream if event.type == "response.function_call_arguments.delta"
            ]
            answer = stream.get_final_response()
        calls = [item for item in answer.output if item.type == "function_call"]
        assert calls and "".join(deltas) == "".join(call.arguments for call in calls)
        for call in calls:
            check_trip(json.loads(call.arguments))


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "trip"}])
def test_anthropics_client_gets_the_call_that_it_wants(
    writer: Writing, claude: anthropic.Anthropic, choice: Any
) -> None:
    writer.model.write("No.")
    asked: Any = {"tools": [OURS], "tool_choice": {**choice, "disable_parallel_tool_use": True}}
    asked |= {"messages": [{"role": "user", "content": "?"}], "model": NAME, "max_tokens": 400}
    made = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for answer in (made, streamed):
        (block,) = answer.content
        assert isinstance(block, anthropic.types.ToolUseBlock) and answer.stop_reason == "tool_use"
        check_trip(block.input)


def test_anthropics_strict_tools_are_kept(writer: Writing) -> None:
    writer.model.write("<tool_call>")
    body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 400}
    answer = writer.server.post("/v1/messages", model=NAME, tools=[{**OURS, "strict": True}], **body).json()
    blocks = [block for block in answer["content"] if block["type"] == "tool_use"]
    assert blocks
    for block in blocks:
        check_trip(block["input"])
