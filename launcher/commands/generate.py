"""`tplaunch run`: answers a message or continues a text, once, or as long as a person at a terminal wants."""

from __future__ import annotations

import sys
from dataclasses import replace

from tplaunch.coordinator.serving.prompt_check import check_prompt
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.chat.answers import Answers, say_speed
from tplaunch.launcher.chat.conversation import Conversation
from tplaunch.launcher.chat.loop import chat, continue_texts
from tplaunch.launcher.chat.opening import first_prompt, open_conversation
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange, say_arrangement
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.hosts.opening import Hosts, open_hosts
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.prompt_text import encode_prompt, say_what_stays_text
from tplaunch.launcher.session import Session, start_session
from tplaunch.launcher.streams import read_standard_input
from tplaunch.launcher.trace_file import check_trace_path, write_trace


def run(config: RunConfig, generate: GenerateConfig) -> int:
    """Checks everything that can be known before a worker starts, then generates."""
    check_trace_path(generate.trace)
    config = replace(
        config,
        timestamps=generate.ledger or generate.trace is not None,
        trace=generate.trace is not None,
    )
    model = open_model(config)
    tokenizer = _tokenizer(model, generate)
    with open_hosts(config, model) as hosts:
        _run_on(hosts, config, generate, model, tokenizer)
    return 0


def _run_on(
    hosts: Hosts, config: RunConfig, generate: GenerateConfig, model: Model, tokenizer: Tokenizer | None
) -> None:
    arrangement = arrange(config, model, hosts.choices, hosts.measure)
    has_prompt = generate.prompt is not None or generate.tokens is not None
    if not has_prompt and model.is_standard_input:
        raise UsageError("standard input is the model file; give the prompt with -p")
    interactive = not has_prompt and not generate.from_standard_input and sys.stdin.isatty()
    with open_conversation(model.metadata, tokenizer, generate) as conversation:
        prompt: tuple[list[int], str] | None = None  # and the text to show before what continues it
        if interactive:
            _check_talk(tokenizer, conversation)
        else:
            prompt = _prompt_tokens(generate, tokenizer, conversation)
            check_prompt(prompt[0], model.spec, arrangement.limits.context_length)
        say_arrangement(config, model, arrangement)
        with start_session(config, model, arrangement, tokenizer, hosts=hosts) as session:
            if prompt is not None:
                _answer(session, generate, *prompt)
            elif conversation is not None:
                chat(session, generate, conversation)
            elif tokenizer is not None:
                continue_texts(session, generate, tokenizer)
        _write_trace(session, generate)


def _answer(session: Session, generate: GenerateConfig, prompt: list[int], text: str) -> None:
    """Answers one prompt. A person reads on from the beginning of a text; a script knows it."""
    request = Answers(session, generate).make(prompt, generate.sampling, echo=text)
    if not generate.json:
        say_speed(request)


def _check_talk(tokenizer: Tokenizer | None, conversation: Conversation | None) -> None:
    """Raises UsageError or ChatTemplateError, before anything loads, where nobody could talk."""
    if tokenizer is None:
        raise UsageError("the model file has no tokenizer; give the prompt as ids with --tokens")
    if conversation is not None:
        first_prompt(conversation, "Hello")
        conversation.clear()


def _write_trace(session: Session, generate: GenerateConfig) -> None:
    if generate.trace is not None and session.engine.trace is not None:
        write_trace(generate.trace, [("tplaunch run", session.engine.trace)])


def _tokenizer(model: Model, generate: GenerateConfig) -> Tokenizer | None:
    """Loads the tokenizer; None where the prompt is given as ids and the file's tokenizer can't be used."""
    try:
        return load_tokenizer(model.metadata)
    except TokenizerError:
        if generate.tokens is None:
            raise
        return None


def _prompt_tokens(
    generate: GenerateConfig, tokenizer: Tokenizer | None, conversation: Conversation | None
) -> tuple[list[int], str]:
    """The prompt, and the text to show before what continues it: none for an answer."""
    if generate.tokens is not None or tokenizer is None:
        return generate.tokens or [], ""
    # `echo` ends its line, as $(...) knows too: that newline is not meant as part of the prompt.
    given = generate.prompt
    text = read_standard_input().removesuffix("\n") if given is None else given
    if conversation is not None:
        if not text.strip():
            raise UsageError("the message is empty: there is nothing to answer")
        say_what_stays_text(tokenizer, text)
        return first_prompt(conversation, text), ""
    return encode_prompt(tokenizer, text, generate.parse_special), given or ""
