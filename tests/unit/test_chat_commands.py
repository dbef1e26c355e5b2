"""The commands of a chat, on a fake channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chatting import TEMPLATE, make_chat
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.text.chat.template import ChatTemplate
from tplaunch.launcher.chat.chat import Chat
from tplaunch.launcher.chat.commands import HELP, Commands

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    made = ChatTemplate(TEMPLATE)
    yield made
    made.close()


def answers_of(chat: Chat) -> list[str]:
    return [turn.answer for turn in chat.conversation.turns]


def test_what_fails_leaves_the_conversation_as_it_was(template: ChatTemplate) -> None:
    chat = make_chat(template)
    chat.answer("Hi")
    commands = Commands(chat)
    commands.run("/set stop_token_ids [999]")
    commands.run("/set bad_token_ids [999]")
    with pytest.raises(RequestError):
        commands.run("/retry")
    assert [turn.message for turn in chat.conversation.turns] == ["Hi"]


def test_commands(template: ChatTemplate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = make_chat(template)
    commands = Commands(chat)

    def said(line: str) -> str:
        capsys.readouterr()
        commands.run(line)
        return " ".join(capsys.readouterr().err.split())

    assert "Nothing has been answered" in said("/stats")
    assert "no message to answer again" in said("/retry") and "nothing to take back" in said("/undo")
    assert said("/system") == "There is no system prompt."
    assert said("/system Be brief.") == "The system prompt is: Be brief."
    chat.answer("one")
    chat.answer("two")
    (first, second) = answers_of(chat)
    assert "temperature 0 gives the same tokens" in said("/retry") and answers_of(chat) == [first, second]
    stats = said("/stats")
    assert "all 3 answers: 24 tokens" in stats and "of 1024 tokens" in stats and "of them cached" in stats
    path = tmp_path / "chat.json"
    assert said(f"/save {path}").replace(" ", "").endswith(f"5messagesarein{path}.")
    assert json.loads(path.read_text()) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": second},
    ]
    assert said("/undo") == "Taken back: two" and answers_of(chat) == [first]
    said(f"/save {path}")
    assert len(json.loads(path.read_text())) == 3  # its own file is written anew
    other = tmp_path / "other.json"
    other.write_text("mine")
    assert "is there already" in said(f"/save {other}") and other.read_text() == "mine"
    assert "can't be written: No such file" in said(f"/save {tmp_path}/no/x")
    assert "needs the name of a file" in said("/save")
    assert said("/clear") == "The conversation begins anew." and not chat.conversation.turns
    assert chat.conversation.system == "Be brief."
    assert said('/system ""') == "There is no system prompt."
    assert "did you mean /retry?" in said("/retri") and "/help lists" in said("/xyzzy")
    assert "takes nothing behind it" in said("/clear now")
    for name in HELP:
        assert name.split()[0] in said("/help")
    said("/quit")
    assert commands.has_ended


def test_set(template: ChatTemplate, capsys: pytest.CaptureFixture[str]) -> None:
    chat = make_chat(template)
    commands = Commands(chat)

    def said(words: str) -> str:
        capsys.readouterr()
        commands.run(f"/set {words}")
        return " ".join(capsys.readouterr().err.split())

    for words, field, value in (
        ("temperature 0.3", "temperature", 0.3),
        ("temp=0.5", "temperature", 0.5),
        ("--top-k 5", "top_k", 5),
        ("repeat_penalty 1.1", "repetition_penalty", 1.1),
        ("n 7", "max_tokens", 7),
        ("max_tokens none", "max_tokens", None),
        ("seed 1267650600228229401496703205377", "seed", 2**100 + 1),
        ("stop THE END", "stop", ("THE END",)),
        ('stop ["a", "b"]', "stop", ("a", "b")),
        ("samplers top_k;temperature", "samplers", ("top_k", "temperature")),
        ('logit_bias {"5": -Infinity}', "logit_bias", {5: float("-inf")}),
        ("ignore_eos true", "ignore_eos", True),
    ):
        assert said(words).startswith(field), words
        assert getattr(chat.params, field) == value
    before = chat.params
    assert "temperature must be finite and at least 0, not -1" in said("temperature -1")
    assert "temperature must be a number, not 'warm'" in said("temperature warm")
    assert "did you mean temperature?" in said("temprature 1")
    assert "there is no field 'prompt_logprobs'" in said("prompt_logprobs 3")
    assert "seed is 1267650600228229401496703205377; /set seed VALUE" in said("seed")
    assert chat.params == before
    listed = said("")
    assert "temperature 0.5" in listed and "top_k 5" in listed and "seed 12676506" in listed
