"""The formats of tool calls and reasoning, each with what is special about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answers import TOOLS, Answer, calls, control_tokens, joined, named, read, tool
from tplaunch.coordinator.text.answers.answer_format import find_format
from tplaunch.coordinator.text.answers.formats import KNOWN_FORMATS
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, CallEnd


def test_declared_strings_stay_strings_and_others_are_json() -> None:
    tools = tool(
        s={"type": "string"},
        i={"type": "integer"},
        n={"type": ["null", "string"]},
        u={"anyOf": [{"type": "string"}, {"type": "integer"}]},
        b={"type": "boolean"},
        o={"$ref": "#/$defs/o"},
        x={},
        bad={"type": "integer"},
    )
    tools[0]["function"]["parameters"]["$defs"] = {"o": {"type": "object"}}
    values = {
        **{"s": "12", "i": "12", "n": "null", "u": "12", "b": "True", "o": "{'k': [None, (1,)]}"},
        **{"x": '{"k": 1.0}', "bad": "twelve"},
    }
    text = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    answer = read(
        named("qwen3-coder"), f"<tool_call>\n<function=f>\n{text}</function>\n</tool_call>", tools=tools
    )
    expected = {
        **{"s": "12", "i": 12, "n": None, "u": 12, "b": True, "o": {"k": [None, [1]]}},
        **{"x": {"k": 1.0}, "bad": "twelve"},
    }
    assert calls(answer) == [("f", expected)]


def test_a_schema_of_many_choices_raises_nothing() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(2000):
        schema = {"anyOf": [schema]}
    text = "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
    assert calls(read(named("glm"), text, tools=tool(a=schema))) == [("f", {"a": 1})]


def test_string_parameters_go_out_as_they_come() -> None:
    reader = named("qwen3-coder").reader("", TOOLS)
    assert reader.push("<tool_call>\n<function=get_weather>\n<parameter=ci") == [
        CallBegin(0, "get_weather", None),
        CallArguments(0, "{"),
    ]
    assert reader.push('ty>\nOs"') == [CallArguments(0, '"city": "Os\\"')]
    assert reader.push("lo\n") == [CallArguments(0, "lo")]
    assert reader.push("\n\n</param") == [CallArguments(0, "\\n\\n")]
    assert reader.push("eter>\n</function>") == [CallArguments(0, '"}'), CallEnd(0, True)]
    assert reader.push("\n</tool_call>") == reader.finish() == []


def test_qwen3_coders_section_may_be_missing() -> None:
    text = "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
    answer = read(named("qwen3-coder"), f"Well.\n{text}")
    assert calls(answer) == [("get_weather", {"city": "Rome"})]


@pytest.mark.parametrize("begin", ["", "<|python_tag|>", "\n"])
def test_llama_writes_calls_with_a_marker_or_without(begin: str) -> None:
    answer = read(named("llama3"), begin + '{"name": "now", "parameters": {"a": "b"}}')
    assert calls(answer) == [("now", {"a": "b"})] and answer.content == ""


def test_llamas_calls_may_follow_each_other() -> None:
    one = '{"name": "now", "parameters": {}}'
    assert len(calls(read(named("llama3"), f"{one}; {one}\n{one}"))) == 3


@pytest.mark.parametrize(
    "text", ['{"answer": 42}', 'It is {"name": "now", "parameters": {}}', "{}", "{", '{"name']
)
def test_json_that_is_no_call_is_text(text: str) -> None:
    assert read(named("llama3"), text) == Answer(text)


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS]now[ARGS]{"a": 1}',
        '[TOOL_CALLS]now{"a": 1}',
        '[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{"a": 1}',
        '[TOOL_CALLS][{"name": "now", "arguments": {"a": 1}, "id": "abcdefghi"}]',
        '[TOOL_CALLS] [{"name": "now", "arguments": {"a": 1}}]',
    ],
)
def test_mistrals_calls(text: str) -> None:
    assert calls(read(named("mistral-args"), f"Yes.{text}", cuts=range(99))) == [("now", {"a": 1})]


def test_ids_are_those_that_the_model_wrote_or_in_their_form() -> None:
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}"
        "<|tool_call_end|><|tool_calls_section_end|>"
    )
    assert read(named("kimi-k2"), text).calls[0].id == "functions.now:0"
    assert named("kimi-k2").make_id("now", 3) == "functions.now:3"
    first, second = (named("mistral").make_id("now", 0) for _ in range(2))
    assert first != second and len(first) == 9 and first.isalnum()
    assert named("hermes").make_id("now", 0).startswith("call_")


HARMONY = (
    "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me."
    '<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": 1}'
)


def test_harmony_is_read() -> None:
    answers = find_format("<|start|><|channel|><|message|>", {})
    assert answers.name == "harmony" and answers.reasoning is not None
    for text in (
        HARMONY,
        HARMONY + "<|call|>",
        HARMONY.replace("<|channel|>commentary to=functions.now", " to=functions.now<|channel|>commentary"),
    ):
        answer = read(answers, text, prompt_end="<|end|><|start|>assistant", cuts=range(999))
        assert calls(answer) == [("now", {"a": 1})]
        assert (answer.reasoning, answer.content) == ("I think.", "Let me.")
    final = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert read(answers, final, prompt_end="<|start|>assistant") == Answer("Yes.", "Hm")
    unknown = HARMONY.replace("functions.now", "functions.rm")
    assert "functions.rm" in read(answers, unknown, prompt_end="<|start|>assistant").content
    assert read(answers, HARMONY, prompt_end="<|start|>assistant", tools=None).content == 'Let me.{"a": 1}'


def test_lfm2_writes_python() -> None:
    written = """[f(a='it\\'s', b="x\\x41", c=[1, None, {'k': (True,)}]), now()]"""
    text = f"<|tool_call_start|>{written}<|tool_call_end|>Ok"
    answer = read(named("lfm2"), text, tools=[*tool(a={}, b={}, c={}), *TOOLS])
    assert calls(answer) == [("f", {"a": "it's", "b": "xA", "c": [1, None, {"k": [True]}]}), ("now", {})]
    assert answer.content == "Ok"


def test_gemma_writes_bare_keys() -> None:
    text = '<|tool_call>call:now{a:<|"|>x"\ny<|"|>,b:{c:[1.5,true,None],d:{}}}<tool_call|>'
    assert calls(read(named("gemma"), text)) == [
        ("now", {"a": 'x"\ny', "b": {"c": [1.5, True, None], "d": {}}})
    ]


def test_markers_about_content_are_left_out() -> None:
    template = "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|><|END_RESPONSE|><|START_ACTION|>"
    text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>"
    assert read(find_format(template, {}), text) == Answer("Yes.", "Hm.")


def test_all_formats_go_with_all_ways_of_reasoning() -> None:
    reasonings = (
        "<think></think>",
        "[THINK][/THINK]",
        "<|START_THINKING|><|END_THINKING|>",
        "<response></response>",
    )
    for name in KNOWN_FORMATS:
        for template in reasonings:
            assert read(named(name, template), "Hello <b>") == Answer("Hello <b>")


def test_grammars_hold_only_the_tools_asked_for() -> None:
    for name in KNOWN_FORMATS:
        grammar = named(name).call_grammar(TOOLS, names=["now"])
        assert grammar is not None and "now" in grammar and "get_weather" not in grammar
        assert named(name).call_grammar(TOOLS, names=["rm"]) is None
        assert named(name).call_grammar([]) is None


def test_control_tokens_are_written_by_their_ids() -> None:
    grammar = named("hermes", tokens={"<tool_call>": 71, "</tool_call>": 72}).call_grammar(TOOLS)
    assert grammar is not None and "<[71]>" in grammar and "<[72]>" in grammar and "tool_call>" not in grammar
    assert control_tokens("<tool_call>") == {"<tool_call>": 256}


def test_pieces_add_up_to_json() -> None:
    assert (
        json.loads(
            joined([CallBegin(0, "f", None), CallArguments(0, "{"), CallArguments(0, "}"), CallEnd(0, True)])
            .calls[0]
            .arguments
        )
        == {}
    )


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("phi", "{{ tools }} <|tool_call|>...<|/tool_call|>"),
        ("granite", "respond only with <|tool_call|>"),
        ("seed", "<seed:tool_call>\\n<function=a>\\n<parameter=b>"),
        ("olmo", "within <function_calls></function_calls>"),
        ("internlm", "<|action_start|><|plugin|>"),
        ("jamba", "<tool_calls>[...]</tool_calls>"),
        ("llama3", "{{ '<|python_tag|>' }}"),
        ("harmony", "<|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_templates_that_no_file_holds_are_told_by_their_markers(name: str, template: str) -> None:
    assert find_format(template, {}).name == name


def test_whether_calls_may_be_bare_is_told() -> None:
    assert named("llama3").calls_may_be_bare and not named("hermes").calls_may_be_bare
    assert named("hermes").call_begins == ("<tool_call>",)
    assert named("harmony").call_begins == ("<|start|>", "<|channel|>")
    assert named("qwen3-coder").call_begins == ("<tool_call>", "<function=")
