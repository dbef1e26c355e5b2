"""Renders conversations with a model's own chat template, and makes tokens of what it writes.

Knows the metadata that hold templates; how one is rendered is coordinator/text/chat/renderer.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tplaunch.coordinator.text.chat.conversation import (
    Message,
    check_messages,
    check_objects,
    cut_at_open_end,
    with_open_end,
)
from tplaunch.coordinator.text.chat.guard import encode_guarded
from tplaunch.coordinator.text.chat.process import ChatTemplateError, RendererProcess, RenderLimits
from tplaunch.coordinator.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "ChatTemplateError", "RenderLimits", "encode_chat", "load_chat_template"]

KEY = "tokenizer.chat_template"
NAMES_KEY = "tokenizer.chat_templates"
DEFAULT: Final = "default"
TOOL_USE: Final = "tool_use"  # as transformers, this one is taken where tools are given
MAX_SOURCE_CHARACTERS = 1 << 20  # of all templates of a file; the longest known has 16,448
MAX_TEMPLATES = 64


class ChatTemplate:
    """A model's template, in jinja2's language, and its begin and end tokens' texts.

    Renders as transformers' apply_chat_template does. Rendering happens in a process of its own, which the
    first call starts (a tenth of a second); close() ends it. Any thread may render.
    """

    def __init__(
        self,
        source: str,
        bos_token: str = "",
        eos_token: str = "",
        *,
        named: Mapping[str, str] | None = None,
        limits: RenderLimits | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """named: further templates by name. clock: what strftime_now tells. Raises ChatTemplateError."""
        self._sources = {**(named or {}), DEFAULT: source}
        num_characters = sum(map(len, self._sources.values()))
        if num_characters > MAX_SOURCE_CHARACTERS:
            raise ChatTemplateError(
                f"the chat template has {num_characters} characters;"
                f" at most {MAX_SOURCE_CHARACTERS} are possible"
            )
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        self._clock = clock
        self._process = RendererProcess(self._sources, limits or RenderLimits())

    def source(self, template: str | None = None, *, has_tools: bool = False) -> str:
        """Returns the text of the template that a conversation would be rendered with; see render."""
        return self._sources[self._name(template, has_tools)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all templates, "default" among them."""
        return tuple(sorted(self._sources))

    def check(self) -> None:
        """Raises ChatTemplateError where the default template is not in jinja2's language."""
        self._process.ask({"template": DEFAULT})

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template: str | None = None,
        **extra: Any,
    ) -> str:
        """Returns the text of a conversation, as the model was trained on it.

        messages: objects with role and content, a text or a list of parts ({"type": "text", "text": ...}).
        add_generation_prompt: ends where the assistant's answer begins. continue_final_message: ends behind
        the last message's text instead, which the model then continues. template: one by name. extra: what
        else the template may ask for, such as enable_thinking.

        Raises ChatTemplateError for messages of another form, and where the template refuses them, fails,
        or costs more than its limits.
        """
        check_messages(messages)
        check_objects(tools, "tools")
        check_objects(documents, "documents")
        if continue_final_message:
            messages, add_generation_prompt = with_open_end(messages), False
        variables = {
            **self._special,
            **extra,
            "messages": list(messages),
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        name = self._name(template, has_tools=tools is not None)
        text = self._process.ask({"template": name, "variables": variables, "now": self._clock().isoformat()})
        return cut_at_open_end(text) if continue_final_message else text

    def close(self) -> None:
        """Ends the process that renders; rendering again would start another."""
        self._process.close()

    def _name(self, template: str | None, has_tools: bool) -> str:
        if template is None:
            return TOOL_USE if has_tools and TOOL_USE in self._sources else DEFAULT
        if template not in self._sources:
            raise ChatTemplateError(
                f"there is no chat template {template!r:.80}; there are {', '.join(self.names)}"
            )
        return template


def load_chat_template(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template in a GGUF file's metadata; None where there is none.

    A file without a default template, but with others, has the first of them for it. Raises ChatTemplateError
    for what is no text, and for too much of it.
    """
    named = {name: _text(metadata, f"{KEY}.{name}") for name in _names(metadata) if name != DEFAULT}
    source = _text(metadata, KEY) if KEY in metadata else next(iter(named.values()), None)
    if source is None:
        return None
    bos, eos = (
        "" if token is None else tokenizer.token_text(token)
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )
    return ChatTemplate(source, bos, eos, named=named)


def encode_chat(tokenizer: Tokenizer, rendered: str) -> list[int]:
    """The token ids of what a template wrote.

    Texts of control tokens become these tokens, wherever they stand, but for those that guarded() has marked
    in a message. The begin token comes first where the vocabulary asks for it, once: many templates write it
    themselves. Raises TokenizerError.
    """
    tokens = encode_guarded(tokenizer, rendered)
    bos = tokenizer.bos_token_id
    if tokenizer.adds_bos and bos is not None and tokens[:1] != [bos]:
        return [bos, *tokens]
    return tokens


def _names(metadata: Mapping[str, Any]) -> list[str]:
    names = metadata.get(NAMES_KEY, [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ChatTemplateError(f"{NAMES_KEY} is not a list of names")
    if len(names) > MAX_TEMPLATES:
        raise ChatTemplateError(f"{NAMES_KEY} has {len(names)} names; at most {MAX_TEMPLATES} are possible")
    return [name for name in names if f"{KEY}.{name}" in metadata]


def _text(metadata: Mapping[str, Any], key: str) -> str:
    source = metadata[key]
    if not isinstance(source, str):
        raise ChatTemplateError(f"{key} is of type {type(source).__name__}, not a text")
    return source
