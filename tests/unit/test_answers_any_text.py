"""Properties of the readers of answers for any text: cuts change nothing, nothing raises, nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.answers import TOOLS, read
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, find_format
from tplaunch.coordinator.text.answers.formats import KNOWN_FORMATS
from tplaunch.coordinator.text.answers.json_calls import JsonCalls
from tplaunch.coordinator.text.answers.named_calls import NamedCalls
from tplaunch.coordinator.text.answers.tagged_calls import TaggedCalls

REASONING = "<think></think>"
GENERAL = [
    *(
        "now",
        "get_weather",
        "city",
        "Rome",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        "=",
        '"',
        "'",
        "\\",
        "\\u00e9",
    ),
    *(
        "<",
        ">",
        "</",
        "<|",
        "\n",
        " ",
        "\n\n",
        "x",
        "1",
        "-1.5e3",
        "true",
        "None",
        "null",
        '"name": "now"',
        "é🦙",
    ),
    *(
        '"arguments": {',
        '{"a": [1, "b"]}',
        "<think>",
        "</think>",
        "<tool_call>",
        "```",
        "functions.",
        ":0",
        "\0",
    ),
]
PROMPT_ENDS = ["", "<think>\n", "<think></think>", "<|start|>assistant"]


def opened(name: str, template: str = REASONING) -> AnswerFormat:
    return find_format(template, {}, override=name)


def markers(answers: AnswerFormat) -> list[str]:
    """The texts of which a format's calls consist."""
    calls = answers.layout.calls
    values: Any = vars(calls).values() if dataclasses.is_dataclass(calls) else ()
    texts = [value.replace("{name}", "now") for value in values if isinstance(value, str)]
    frames = answers.layout.frames
    more = (
        [*frames.marks, "<|message|>", "analysis", "commentary to=functions.now ", "final"] if frames else []
    )
    return [text for text in [*texts, *answers.layout.silent, *more] if text]


def sample(calls: Any) -> str:
    """A call of get_weather as a model writes it."""
    if isinstance(calls, TaggedCalls):
        pair = calls.written_key + "Rome" + calls.written_value_end
        pair = pair.replace("{key}", "city").replace("{type}", calls.types[0][0] if calls.types else "")
        text = (
            calls.written_section + calls.written_begin + pair + calls.written_end + calls.written_section_end
        )
        text = text.replace("{index}", "0")
    elif isinstance(calls, NamedCalls):
        name = "functions.get_weather:0" if calls.name_is_id else "get_weather"
        call_id = "one" + calls.id_end if calls.id_end else ""
        head = f"{calls.section}{calls.begin}{call_id}{name}{calls.name_end}"
        value = "Rome" if calls.begin.startswith("<|tool_call>call") else ""
        arguments = f'{{city:<|"|>{value}<|"|>}}' if value else '{"city": "Rome"}'
        text = head + arguments + calls.end + calls.section_end
    elif isinstance(calls, JsonCalls):
        one = calls.written.replace("{arguments}", '{"city": "Rome"}').replace("{id}", "123456789")
        text = calls.begin + calls.written_begin + one + calls.written_end + calls.end
        text = text.replace("{name}", '"get_weather"')
    else:
        space = "]<]minimax[>["
        nested = f'{space}<tool_call>\n{space}<invoke name="get_weather">{space}<city>Rome{space}</city>'
        brackets = "[]" if getattr(calls, "is_list", True) else ""
        begin, end = getattr(calls, "begin", ""), getattr(calls, "end", "")
        texts = {
            "NestedCalls": f"{nested}{space}</invoke>\n{space}</tool_call>",
            "PythonCalls": f"{begin}{brackets[:1]}get_weather(city='Rome'){brackets[1:]}{end}",
            "HarmonyCalls": '<|channel|>commentary to=functions.get_weather<|message|>{"city": "Rome"}',
        }
        text = texts[type(calls).__name__]
    return text.replace("{name}", "get_weather").replace("\0", "\n")


@pytest.mark.parametrize("name", sorted(KNOWN_FORMATS))
def test_a_formats_call_is_read(name: str) -> None:
    answers = opened(name)
    for text in (sample(answers.layout.calls), "\n\n" + sample(answers.layout.calls) + "\n"):
        answer = read(answers, text)
        assert answer.named_calls == [("get_weather", {"city": "Rome"})], text
        assert answer.content == "" and answer.calls[0].is_complete


@st.composite
def texts(draw: st.DrawFn, answers: AnswerFormat) -> str:
    """Texts that are nearly calls: pieces of them in any order, and whole ones with something put in."""
    piece = st.sampled_from([*markers(answers), *GENERAL]) | st.text(max_size=4)
    if draw(st.booleans()):
        return "".join(draw(st.lists(piece, max_size=25)))
    whole = sample(answers.layout.calls) * draw(st.integers(1, 2))
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.integers(0, len(whole))), draw(st.integers(0, 4))
        whole = whole[:at] + draw(piece) + whole[at + size :]
    return draw(st.sampled_from(["", "Yes.", "<think>Hm</think>\n"])) + whole


@pytest.mark.parametrize("name", sorted(KNOWN_FORMATS))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cuts_change_nothing_and_nothing_raises(name: str, data: st.DataObject) -> None:
    answers = opened(name)
    text = data.draw(texts(answers))
    prompt_end = data.draw(st.sampled_from(PROMPT_ENDS))
    tools = data.draw(st.sampled_from([TOOLS, None]))
    whole = read(answers, text, prompt_end=prompt_end, tools=tools)
    for cuts in (range(len(text)), data.draw(st.lists(st.integers(0, max(1, len(text))), max_size=6))):
        assert read(answers, text, prompt_end=prompt_end, tools=tools, cuts=cuts) == whole
    for call in whole.calls:
        if call.is_complete:
            assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", sorted(set(KNOWN_FORMATS) - {"harmony", "muse"}))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_nothing_of_what_is_no_call_is_lost(name: str, data: st.DataObject) -> None:
    answers = opened(name, "")
    text = data.draw(texts(answers))
    for mark in (
        *answers.layout.silent,
        *(getattr(answers.reasoning, each, "") for each in ("begin", "end")),
    ):
        text = text.replace(mark, "") if mark else text
    answer = read(answers, text)
    if not answer.calls and not any(mark in text for mark in answers.layout.silent):
        assert answer.content + answer.reasoning == text
    assert read(answers, text, tools=None).content == text or answers.layout.silent or answers.reasoning


@pytest.mark.parametrize(
    ("name", "begin", "unit"),
    [
        ("hermes", "", "<tool_call"),
        ("hermes", "", "<tool_call>{"),
        ("hermes", "", "   "),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "', "text\\n"),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": [', "1, "),
        ("hermes", '<tool_call>{"name": "now", "x": "', "text"),
        ("hermes", '<tool_call>{"arguments": {"a": "', "text"),
        ("qwen3-coder", "<function=get_weather><parameter=city>", "\n</parameter"),
        ("qwen3-coder", "<function=get_weather><parameter=days>", "1 <"),
        ("glm", "<tool_call>", "now "),
        ("lfm2", "<|tool_call_start|>[get_weather(city='", "\\x41"),
        ("minimax-m3", ']<]minimax[>[<invoke name="now">', "]<]minimax[>[<a>"),
        ("minimax-m3", ']<]minimax[>[<invoke name="now">]<]minimax[>[<a>', "b]<]min"),
        ("harmony", "", "<|channel|>"),
        ("llama3", "", "{"),
    ],
)
def test_time_grows_with_the_text(name: str, begin: str, unit: str) -> None:
    """Eight times the text takes about eight times as long, and not 64, in small parts and in one."""
    answers = opened(name)

    def seconds(count: int, step: int) -> float:
        text = begin + unit * count
        reader = answers.reader("", TOOLS)
        begun = time.process_time()
        for start in range(0, len(text), step):
            reader.push(text[start : start + step])
        reader.finish()
        return time.process_time() - begun

    for step in (7, 1 << 22):
        short = min(seconds(3000, step) for _ in range(2))
        assert seconds(24_000, step) < 30 * short + 0.05, step
