"""Answers are told apart piece by piece: each format, each way to go wrong, and any cut of the text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.answers import TOOLS, Answer, calls, named, read
from tplaunch.coordinator.text.answers.answer_format import (
    NO_TOOLS,
    AnswerFormatError,
    find_format,
)
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Reasoning,
)

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
    assert reader.push("\nHm") == [Reasoning("Hm")]
    assert reader.push(".</thi") == [Reasoning(".")]
    assert reader.push("nk>\n\nHello") == [Content("Hello")]
    assert reader.push("\n<tool_") == []
    assert reader.push('call>\n{"name": "now", "argu') == []
    assert reader.push('ments": {"a"') == [CallBegin(0, "now", None), CallArguments(0, '{"a"')]
    assert reader.push(': "x') == [CallArguments(0, ': "x')]
    assert reader.push('y"}}') == [CallArguments(0, 'y"}'), CallEnd(0, True)]
    assert reader.push("\n</tool_call>") == []
    assert reader.finish() == []


def test_the_reader_tells_where_it_is() -> None:
    reader = named("hermes", "<think></think>").reader("<think>\n", TOOLS)
    before = (reader.is_reasoning, reader.num_calls)
    reader.push(f"Hm</think>{HERMES_CALL}")
    assert (before, (reader.is_reasoning, reader.num_calls)) == ((True, 0), (False, 1))


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
