"""Answers are told apart piece by piece: each format, each way to go wrong, and any cut of the text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answers import TOOLS, Answer, control_tokens, joined, read
from tplaunch.coordinator.text.answers.answer_format import (
    NO_TOOLS,
    AnswerFormat,
    AnswerFormatError,
    find_format,
)
from tplaunch.coordinator.text.answers.formats import KNOWN_FORMATS
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
)


def named(name: str, template: str = "", tokens: dict[str, int] | None = None) -> AnswerFormat:
    return find_format(template, tokens or {}, override=name)


def calls(answer: Answer) -> list[tuple[str, Any]]:
    assert all(call.is_complete for call in answer.calls)
    return answer.named_calls


def tool(**properties: Any) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    return [{"type": "function", "function": {"name": "f", "parameters": schema}}]


HERMES_CALL = '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>'


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AnswerFormatError, match=r"no tool format 'nonsense'; there are .*hermes.*, none"):
        named("nonsense")


def test_a_name_overrides_what_the_template_says() -> None:
    assert find_format("<tool_call>", {}, override="llama3").name == "llama3"
    assert not find_format("<tool_call> tools", {}, override=NO_TOOLS).writes_calls


def test_control_tokens_tell_where_the_template_has_tools_but_no_calls() -> None:
    tokens = {"<|tool_call_start|>": 7, "<|tool_call_end|>": 8}
    assert find_format("{{ tools }}", tokens).name == "lfm2"
    assert find_format("{{ messages }}", tokens).name == NO_TOOLS
    assert find_format("{{ messages }}", {"<think>": 7, "</think>": 8}).reasoning is not None


def test_a_template_without_tools_has_no_format() -> None:
    answers = find_format("{{ messages }}", {})
    assert answers.name == NO_TOOLS and answers.reasoning is None and answers.call_begins == ()
    assert answers.call_grammar(TOOLS) is None
    assert read(answers, f"Hi {HERMES_CALL} ") == Answer(f"Hi {HERMES_CALL} ")


def test_an_unknown_template_that_shows_json_in_tags_is_read_so() -> None:
    template = 'For a tool write <do_it>\\n{"name": <name>, "arguments": <args>}\\n</do_it>'
    answers = find_format(template, {})
    assert answers.name == "json" and answers.call_begins == ("<do_it>",)
    text = 'Yes.\n<do_it>\n{"name": "now", "arguments": {}}\n</do_it>'
    assert calls(read(answers, text)) == [("now", {})]


def test_pieces_come_as_soon_as_they_are_certain() -> None:
    reader = named("hermes", "<think></think>").reader("<|im_start|>assistant\n<think>\n", TOOLS)
    assert reader.push("\nHm") == [ReasoningText("Hm")]
    assert reader.push(".</thi") == [ReasoningText(".")]
    assert reader.push("nk>\n\nHello") == [ContentText("Hello")]
    assert reader.push("\n<tool_") == []
    assert reader.push('call>\n{"name": "now", "argu') == []
    assert reader.push('ments": {"a"') == [CallStart(0, "now", None), CallArguments(0, '{"a"')]
    assert reader.push(': "x') == [CallArguments(0, ': "x')]
    assert reader.push('y"}}') == [CallArguments(0, 'y"}'), CallEnd(0, True)]
    assert reader.push("\n</tool_call>") == []
    assert reader.finish() == []


def test_without_tools_nothing_is_a_call() -> None:
    assert read(named("hermes"), HERMES_CALL, tools=None).content == HERMES_CALL
    assert read(named("hermes"), HERMES_CALL, tools=[]).content == HERMES_CALL


def test_a_name_that_is_no_tools_is_text() -> None:
    text = 'I call\n<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call> now'
    assert read(named("hermes"), text) == Answer(text)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call> and more",
        '<tool_call>{"name": "now"',
        '<tool_call>{"name": "now", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "now", "arguments": "no JSON"}</tool_call>',
        '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
        "<tool_call>[]</tool_call>",
        "<tool_call>" * 3,
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    answer = read(named("hermes"), f"Look: {text}")
    assert answer.calls == [] and answer.content == f"Look: {text}"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"arguments": {"a": [1, 2]}, "name": "now"}', {"a": [1, 2]}),
        ('{"name": "now"}', {}),
        ('{"name": "now", "arguments": null}', {}),
        ('{"name": "now", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"id": "x", "type": "function", "name": "now", "parameters": {"a": 1.5e3}}', {"a": 1500.0}),
        ('{"name": "now", "arguments": {"a": "one\ntwo\t\\u00e9 \\\' \\q"}}', {"a": "one\ntwo\té ' \\q"}),
        ('{"name": "now", "arguments": {"a": [1, ], "b": {}, }}', {"a": [1], "b": {}}),
    ],
)
def test_json_calls_are_read_leniently(text: str, arguments: Any) -> None:
    answer = read(named("hermes"), f"<tool_call>{text}</tool_call>", cuts=range(200))
    assert calls(answer) == [("now", arguments)] and answer.content == ""


def test_arguments_go_out_as_they_were_written() -> None:
    written = '{ "a" :[1,2 , 3.50],"b":{"c": null} }'
    answer = read(named("hermes"), f'<tool_call>{{"name": "now", "arguments": {written}}}</tool_call>')
    assert answer.calls[0].arguments == written


def test_a_call_that_is_cut_stays_incomplete() -> None:
    answer = read(named("hermes"), 'Hi<tool_call>{"name": "now", "arguments": {"path": "/home/a')
    assert answer.content == "Hi"
    assert [(call.arguments, call.is_complete) for call in answer.calls] == [('{"path": "/home/a', False)]


def test_a_call_that_goes_wrong_ends_there_and_the_rest_is_text() -> None:
    answer = read(named("hermes"), '<tool_call>{"name": "now", "arguments": {"a": oops}}</tool_call> bye')
    assert [call.is_complete for call in answer.calls] == [False]
    assert answer.content == "oops}}</tool_call> bye"


def test_a_call_whose_end_marker_is_missing_is_whole() -> None:
    assert calls(read(named("hermes"), HERMES_CALL.removesuffix("\n</tool_call>"))) == [("now", {"a": 1})]


def test_text_stands_before_between_and_behind_calls() -> None:
    answer = read(named("hermes"), f"  One\n\n{HERMES_CALL}\ntwo\n{HERMES_CALL}\n\nthree \n")
    assert answer.content == "  Onetwothree \n" and len(answer.calls) == 2


def test_nesting_has_a_limit() -> None:
    text = '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * 100_000
    answer = read(named("hermes"), text)
    assert [call.is_complete for call in answer.calls] == [False]


@pytest.mark.parametrize(
    ("prompt_end", "reasoning", "content"),
    [
        ("<assistant>", "", "a</think>b"),
        ("<assistant><think>", "a", "b"),
        ("<assistant><think>\n", "a", "b"),
        ("<assistant><think>\n\n</think>\n\n", "", "a</think>b"),
    ],
)
def test_the_prompts_end_tells_if_reasoning_is_open(prompt_end: str, reasoning: str, content: str) -> None:
    answers = find_format("<think></think>", {})
    assert answers.reasoning is not None
    assert answers.reasoning.is_open(prompt_end) == bool(reasoning)
    answer = read(answers, "a</think>b", prompt_end=prompt_end)
    assert (answer.reasoning, answer.content) == (reasoning, content)


def test_an_end_marker_before_any_text_is_dropped() -> None:
    assert read(find_format("<think></think>", {}), "</think>\nHello") == Answer("Hello")


def test_a_control_token_that_begins_a_call_ends_reasoning() -> None:
    text = f"I should call. {HERMES_CALL}"
    template, prompt_end = "<think></think>", "<think>\n"
    as_text = read(named("hermes", template), text, prompt_end=prompt_end)
    assert as_text.calls == [] and as_text.reasoning == text
    tokens = {"<tool_call>": 5, "</tool_call>": 6}
    as_call = read(named("hermes", template, tokens), text, prompt_end=prompt_end)
    assert as_call.reasoning == "I should call." and calls(as_call) == [("now", {"a": 1})]


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


def test_string_parameters_go_out_as_they_come() -> None:
    reader = named("qwen3-coder").reader("", TOOLS)
    assert reader.push("<tool_call>\n<function=get_weather>\n<parameter=ci") == [
        CallStart(0, "get_weather", None),
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
            joined([CallStart(0, "f", None), CallArguments(0, "{"), CallArguments(0, "}"), CallEnd(0, True)])
            .calls[0]
            .arguments
        )
        == {}
    )
