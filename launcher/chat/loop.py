"""Answers the lines that a person types at a terminal, in a chat, or as texts that are continued."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.text.chat.template import ChatTemplateError
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError
from tplaunch.launcher.chat.answers import Answers, Stop, say_speed
from tplaunch.launcher.chat.chat import Chat, ChatError, tell
from tplaunch.launcher.chat.commands import KEYS, Commands
from tplaunch.launcher.chat.conversation import Conversation
from tplaunch.launcher.chat.typed import read_typed
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.lines import say
from tplaunch.launcher.prompt import Interrupted, read_line
from tplaunch.launcher.prompt_text import encode_prompt
from tplaunch.launcher.session import Session
from tplaunch.launcher.signals import end_by, interrupts

T = TypeVar("T")
REFUSALS = (ChatError, ChatTemplateError, TokenizerError, RequestError, UsageError)


def chat(session: Session, generate: GenerateConfig, conversation: Conversation) -> None:
    """Answers messages and carries out commands until the person ends it."""
    talk = Chat(Answers(session, generate), conversation, generate)
    commands = Commands(talk)
    tell(f"Type a message; /help lists the commands. {KEYS}")
    with interrupts(talk.stop.take):
        for typed in _each(lambda: read_typed(lambda prompt: read_line(session.watch, prompt))):
            try:
                if typed.is_command:
                    commands.run(typed.text)
                elif typed.text.strip():
                    talk.answer(typed.text)
            except REFUSALS as error:
                say(str(error))
            if commands.has_ended:
                break


def continue_texts(session: Session, generate: GenerateConfig, tokenizer: Tokenizer) -> None:
    """Continues one text after the other until the person ends it; every text starts afresh."""
    answers, stop = Answers(session, generate), Stop()
    print("Type a prompt; Ctrl-C stops a text, Ctrl-D ends.", file=sys.stderr)
    with interrupts(stop.take):
        for text in _each(lambda: read_line(session.watch)):
            try:
                prompt = encode_prompt(tokenizer, text, generate.parse_special)
                stop.reset()
                request = answers.make(prompt, generate.sampling, stop)
            except REFUSALS as error:
                say(str(error))
                continue
            if not generate.json:
                say_speed(request)


def _each(read: Callable[[], T]) -> Iterator[T]:
    """Yields each line typed, until Ctrl-D. Ctrl-C drops a line begun; twice in a row it ends the run."""
    was_interrupted = False
    while True:
        try:
            typed = read()
        except EOFError:
            print(file=sys.stderr)
            return
        except Interrupted:
            if was_interrupted:
                end_by(signal.SIGINT)
            was_interrupted = True
            tell("Ctrl-C again ends, and so does Ctrl-D.")
            continue
        was_interrupted = False
        yield typed
