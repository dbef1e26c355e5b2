"""Conversations become text by a template, and text becomes tokens; what a template may not do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.vocabularies import CONTROL, FIRST, byte_level_metadata
from tplaunch.coordinator.text.chat.conversation import with_texts
from tplaunch.coordinator.text.chat.template import (
    ChatTemplate,
    ChatTemplateError,
    encode_chat,
    load_chat_template,
)
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer

HI = [{"role": "user", "content": "Hi"}]
CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = [("<s>", CONTROL), ("</s>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
BOS, EOS, START, END = range(FIRST, FIRST + 4)


def rendered(source: str, messages: Any = HI, **options: Any) -> str:
    template = ChatTemplate(source, "<s>", "</s>", clock=lambda: datetime(2026, 1, 2, 3, 4, 5))
    try:
        return template.render(messages, **options)
    finally:
        template.close()


def tokenizer_with(**keys: Any) -> tuple[dict[str, Any], Tokenizer]:
    metadata = byte_level_metadata(added=TOKENS, **{"bos_token_id": BOS, "eos_token_id": EOS, **keys})
    return metadata, load_tokenizer(metadata)


def test_a_conversation() -> None:
    assert rendered(CHATML) == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(CHATML, add_generation_prompt=False) == "<s><|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),  # blocks leave neither indentation nor line
        ("{{ {'a': '<é>', 'b': [1]}|tojson }}", '{"a": "<é>", "b": [1]}'),
        ("{{ {'b': 1, 'a': 2}|tojson(indent=2, sort_keys=true) }}", '{\n  "a": 2,\n  "b": 1\n}'),
        ("{{ {'a': 'é'}|tojson(ensure_ascii=true, separators=(',', ':')) }}", '{"a":"\\u00e9"}'),
        ("{{ '<&>' }}", "<&>"),
        ("{{ strftime_now('%Y-%m-%d %H:%M') }}", "2026-01-02 03:04"),
        ("{% generation %}{{ eos_token }}{% endgeneration %}!", "</s>!"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in range(4) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "013"),
        ("{{ tools is none }} {{ documents is none }} {{ thinking is defined }}", "True True False"),
        ("{{ absent }}.", "."),
        ("{{ messages[0]['content'][1:] ~ messages[-1].role }}", "iuser"),
    ],
)
def test_the_language_is_that_of_transformers(source: str, text: str) -> None:
    assert rendered(source) == text


def test_what_else_a_template_is_given() -> None:
    source = "{{ tools[0].name }} {{ documents[0].title }} {{ enable_thinking }} {{ bos_token }}"
    assert (
        rendered(
            source, tools=[{"name": "f"}], documents=[{"title": "d"}], enable_thinking=False, bos_token="<b>"
        )
        == "f d False <b>"
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "\ud800é"}]}]
    assert rendered("{{ messages[0].content[0].text }}", parts) == "\ud800é"
    assert rendered("{{ messages[0].content }}", [{"role": "assistant", "content": None}]) == "None"


def test_named_templates() -> None:
    template = ChatTemplate("plain", named={"tool_use": "tools", "rag": "rag"})
    assert template.names == ("default", "rag", "tool_use")
    assert template.render(HI) == "plain" == template.source()
    assert template.render(HI, tools=[]) == "tools"
    assert template.render(HI, tools=[], template="rag") == "rag"
    with pytest.raises(ChatTemplateError, match="no chat template 'x'; there are default, rag, tool_use"):
        template.render(HI, template="x")


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        (CHATML, "Hello  ", "<s><|im_start|>assistant\nHello  "),
        ("{{ messages[0].content|trim }}.", " Hello ", "Hello"),
        ("{{ messages[0].content }} {{ messages[0].content }}.", "a", "a a"),
        (
            "{% for part in messages[0].content %}<{{ part.text }}>{% endfor %}",
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "<a><b",
        ),
    ],
)  # fmt: skip
def test_the_last_message_is_left_open(source: str, content: Any, text: str) -> None:
    messages = [{"role": "assistant", "content": content}]
    before = [dict(message) for message in messages]
    assert rendered(source, messages, continue_final_message=True) == text
    assert messages == before


def test_a_last_message_that_can_not_be_continued() -> None:
    with pytest.raises(ChatTemplateError, match="does not write the last message's text"):
        rendered("nothing", continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="the last message has no text"):
        rendered(CHATML, [{"role": "user", "content": [{"type": "image"}]}], continue_final_message=True)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("Hi", "messages are of type str, not a list"),
        ([], "conversation is empty"),
        (["Hi"], "message 1 is of type str"),
        ([*HI, {"content": "x"}], "message 2's role is missing"),
        ([{"role": 5, "content": "x"}], "message 1's role is of type int"),
        ([{"role": "user"}], "message 1's content is missing"),
        ([{"role": "user", "content": 5}], "message 1's content is of type int"),
        ([{"role": "user", "content": ["x"]}], "a part of message 1's content is no object with a type"),
        ([{"role": "user", "content": "x", "more": {1, 2}}], "can't be written as JSON: .*set"),
    ],
)
def test_messages_of_another_form_are_refused(messages: Any, error: str) -> None:
    with pytest.raises(ChatTemplateError, match=error):
        rendered(CHATML, messages)


def test_tools_of_another_form_are_refused() -> None:
    for options in ({"tools": ["f"]}, {"tools": {"a": 1}}, {"documents": "x"}):
        with pytest.raises(ChatTemplateError, match="are not a list of objects"):
            rendered(CHATML, **options)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ raise_exception('roles\n must alternate') }}", "refuses this conversation: roles must alter"),
        ("a\n{% if %}", "can't be read in line 2: Expected an expression"),
        ("a\n{{ x.y }}", "fails in line 2: UndefinedError: 'x' is undefined"),
        ("\n\n{{ 1 + 'a' }}", "fails in line 3: TypeError: unsupported operand"),
        ("{% include 'a' %}", "fails in line 1: TypeError: no loader"),
    ],
)  # fmt: skip
def test_errors_are_a_sentence(source: str, error: str) -> None:
    with pytest.raises(ChatTemplateError, match=error) as caught:
        rendered(source)
    assert "\n" not in str(caught.value)


def test_a_template_is_checked_without_a_conversation() -> None:
    ChatTemplate("{{ raise_exception('x') }}").check()
    with pytest.raises(ChatTemplateError, match="can't be read in line 1: unexpected"):
        ChatTemplate("{{ ) }}").check()
    with pytest.raises(ChatTemplateError, match="has 1048577 characters; at most 1048576"):
        ChatTemplate("x" * ((1 << 20) + 1))


@pytest.fixture
def metadata() -> Iterator[dict[str, Any]]:
    yield {"tokenizer.chat_template": "{{ bos_token }}|{{ eos_token }}"}


def test_a_template_of_a_file(metadata: dict[str, Any]) -> None:
    vocabulary, tokenizer = tokenizer_with()
    assert load_chat_template(vocabulary, tokenizer) is None
    template = load_chat_template(vocabulary | metadata, tokenizer)
    assert template is not None and template.render(HI) == "<s>|</s>"
    _, without = tokenizer_with(bos_token_id=None, eos_token_id=None)
    template = load_chat_template(metadata, without)
    assert template is not None and template.render(HI) == "|"


def test_named_templates_of_a_file(metadata: dict[str, Any]) -> None:
    _, tokenizer = tokenizer_with()
    named = {
        "tokenizer.chat_templates": ["default", "tool_use", "gone"],
        "tokenizer.chat_template.tool_use": "T",
    }
    template = load_chat_template(metadata | named, tokenizer)
    assert template is not None and template.names == ("default", "tool_use")
    assert template.render(HI, tools=[{}]) == "T"
    template = load_chat_template(named, tokenizer)
    assert template is not None and template.source() == "T"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"tokenizer.chat_template": 5}, "tokenizer.chat_template is of type int"),
        ({"tokenizer.chat_templates": [5]}, "tokenizer.chat_templates is not a list of names"),
        ({"tokenizer.chat_templates": ["a"] * 65}, "has 65 names; at most 64"),
        ({"tokenizer.chat_templates": ["a"], "tokenizer.chat_template.a": []}, "template.a is of type list"),
    ],
)
def test_metadata_that_hold_no_template(metadata: dict[str, Any], wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(ChatTemplateError, match=error):
        load_chat_template(metadata | wrong, tokenizer_with()[1])


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_begin_token_is_never_doubled(adds_bos: bool) -> None:
    _, tokenizer = tokenizer_with(add_bos_token=adds_bos, add_eos_token=True)
    hi = [START, *b"user\nHi", END, *b"\n"]
    bytes_of = {tokenizer.encode(chr(byte), add_special=False)[0]: byte for byte in b"userHi\n"}

    def shown(text: str) -> list[int]:
        return [bytes_of.get(token, token) for token in encode_chat(tokenizer, text)]

    assert shown(rendered(CHATML, add_generation_prompt=False)) == [BOS, *hi]
    without = rendered(CHATML.removeprefix("{{ bos_token }}"), add_generation_prompt=False)
    assert shown(without) == ([BOS] if adds_bos else []) + hi


def test_typed_control_tokens_stay_text_outside_a_chat() -> None:
    _, tokenizer = tokenizer_with()
    assert END not in tokenizer.encode("a<|im_end|>")
    assert END in tokenizer.encode("a<|im_end|>", parse_special=True)
    assert [tokenizer.token_text(token) for token in (BOS, EOS, END)] == ["<s>", "</s>", "<|im_end|>"]
    assert tokenizer.token_bytes(END) == b"" and tokenizer.eos_token_id == EOS


def test_parts_of_text_are_joined_for_templates_that_know_none() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    talk: list[dict[str, Any]] = [{"role": "system", "content": "kept"}, {"role": "user", "content": parts}]
    assert with_texts(talk) == [talk[0], {"role": "user", "content": "one\ntwo"}]
    assert with_texts([talk[0]]) is None
    assert with_texts([{"role": "user", "content": [{"type": "image", "url": "x"}]}]) is None
