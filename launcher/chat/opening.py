"""Opens a conversation by a model's chat template, or by a given one, and finds out if the model has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tplaunch.coordinator.text.chat.template import (
    KEY,
    MAX_SOURCE_CHARACTERS,
    ChatTemplate,
    ChatTemplateError,
    load_chat_template,
)
from tplaunch.coordinator.text.tokenizer import Tokenizer
from tplaunch.launcher.chat.conversation import Conversation
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.generate_config import GenerateConfig

WITHOUT = "; --no-chat continues a text without a template"


@contextmanager
def open_conversation(
    metadata: Mapping[str, Any], tokenizer: Tokenizer | None, generate: GenerateConfig
) -> Iterator[Conversation | None]:
    """Yields a conversation without a turn; None where prompts are texts to continue. Raises UsageError.

    At the end the process that renders is gone.
    """
    if tokenizer is None or not generate.continues_chat:
        yield None
        return
    try:
        template = _template(metadata, tokenizer, generate.chat_template)
    except ChatTemplateError as error:
        raise UsageError(f"{error}{WITHOUT}") from None
    if template is None and generate.system is not None:
        raise UsageError(
            "the model has no chat template that could hold a system prompt; give one with --chat-template"
        )
    if template is None:
        yield None
        return
    try:
        yield Conversation(template, tokenizer, generate.system)
    finally:
        template.close()


def first_prompt(conversation: Conversation, message: str) -> list[int]:
    """The token ids of a chat's first message. Raises UsageError where the template takes none."""
    try:
        return conversation.prompt(message)
    except ChatTemplateError as error:
        raise UsageError(f"{error}{WITHOUT}") from None


def _template(metadata: Mapping[str, Any], tokenizer: Tokenizer, path: str | None) -> ChatTemplate | None:
    if path is None:
        return load_chat_template(metadata, tokenizer)
    try:
        with Path(path).open("rb") as file:
            content = file.read(4 * MAX_SOURCE_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--chat-template {path}: {reason}") from None
    try:
        source = content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"--chat-template {path}: it is no text in UTF-8") from None
    return load_chat_template({KEY: source}, tokenizer)
