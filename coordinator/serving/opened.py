"""A loaded model with all that makes tokens of texts and conversations: API and server stand on it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.spec import GrammarError, of_params
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, find_format
from tplaunch.coordinator.text.answers.control_tokens import control_tokens
from tplaunch.coordinator.text.chat.conversation import with_texts
from tplaunch.coordinator.text.chat.template import (
    KEY,
    ChatTemplate,
    ChatTemplateError,
    encode_chat,
    load_chat_template,
)
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError

RESERVED = frozenset({"messages", "self"})  # names that a template has from elsewhere


@dataclass(frozen=True)
class ChatOptions:
    """The options by which a conversation becomes a text; the names are vLLM's."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None  # a template's text, or the name of one of the model file's
    chat_template_kwargs: Mapping[str, Any] | None = None  # what else it may ask for, such as enable_thinking
    tools: Sequence[Mapping[str, Any]] | None = None


class Opened:
    """A model in a driver, with what makes tokens of texts and conversations. Any thread may use it."""

    def __init__(
        self,
        driver: Driver,
        metadata: Mapping[str, Any],
        tokenizer: Tokenizer | TokenizerError,
        seed: int | None = None,
    ) -> None:
        """metadata: of the model file. tokenizer: its own, or why there is none that can be used. seed: gives
        each request one that has none of its own.
        """
        self.driver = driver
        self._tokenizer = tokenizer
        self._metadata = metadata
        self._seed, self._numbers = seed, itertools.count()
        self._lock = threading.Lock()  # for all below
        self._templates: dict[str | None, ChatTemplate] = {}  # the model file's own, and the last other one
        self._grammars: GrammarCompiler | None = None
        self._control_tokens: dict[str, int] | None = None
        self._formats: dict[tuple[str, str | None], AnswerFormat] = {}  # the last one

    def close(self) -> None:
        """Gives back everything, and waits for that. Closing again does nothing."""
        self.driver.close()
        with self._lock:
            for template in self._templates.values():
                template.close()
            if self._grammars is not None:
                self._grammars.close()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model file's own; None where it has none that can be used."""
        return None if isinstance(self._tokenizer, TokenizerError) else self._tokenizer

    def needed_tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the model file has none that can be used."""
        if isinstance(self._tokenizer, TokenizerError):
            raise TokenizerError(str(self._tokenizer))
        return self._tokenizer

    @property
    def template_source(self) -> str | None:
        """The text of the model file's chat template; None where it has none that can be used."""
        try:
            template, _ = self._template(None, self.needed_tokenizer())
        except (ChatTemplateError, TokenizerError):
            return None
        return template.source()

    @property
    def template_names(self) -> tuple[str, ...]:
        """The names of the model file's chat templates."""
        try:
            return self._template(None, self.needed_tokenizer())[0].names
        except (ChatTemplateError, TokenizerError):
            return ()

    def answer_format(self, options: ChatOptions, override: str | None = None) -> AnswerFormat:
        """Returns how answers to a conversation with these options are written.

        override: the name of another format of calls. Raises RequestError, ChatTemplateError, TokenizerError
        or AnswerFormatError.
        """
        tokenizer = self.needed_tokenizer()
        template, name = self._template(options.chat_template, tokenizer)
        source = template.source(name, has_tools=options.tools is not None)
        with self._lock:
            if self._control_tokens is None:
                self._control_tokens = control_tokens(tokenizer)
            if (source, override) not in self._formats:
                self._formats = {
                    (source, override): find_format(source, self._control_tokens, override=override)
                }
            return self._formats[source, override]

    def rendered(self, conversation: Any, options: ChatOptions) -> tuple[str, list[int]]:
        """Returns a conversation as text and as token ids.

        Raises RequestError, ChatTemplateError or TokenizerError.
        """
        tokenizer = self.needed_tokenizer()
        template, name = self._template(options.chat_template, tokenizer)
        extra = {str(key): value for key, value in (options.chat_template_kwargs or {}).items()}
        if not RESERVED.isdisjoint(extra):
            raise RequestError(f"chat_template_kwargs can't have {' or '.join(sorted(RESERVED))}")
        settings = {
            "tools": options.tools,
            "template": name,
            "add_generation_prompt": options.add_generation_prompt,
            "continue_final_message": options.continue_final_message,
        }
        try:
            text = template.render(conversation, **{**extra, **settings})
        except ChatTemplateError:
            joined = with_texts(conversation)  # many templates know no parts
            if joined is None:
                raise
            text = template.render(joined, **{**extra, **settings})
        return text, encode_chat(tokenizer, text)

    @property
    def grammars(self) -> GrammarCompiler:
        """The compiler of grammars for this model. Raises TokenizerError."""
        tokenizer = self.needed_tokenizer()
        with self._lock:
            if self._grammars is None:
                size = self.driver.session.engine.spec.vocabulary_size
                self._grammars = GrammarCompiler(tokenizer, size)
            return self._grammars

    def constraint(self, params: SamplingParams) -> Constraint | None:
        """Compiles what parameters ask of a text, which may take seconds.

        Raises RequestError or TokenizerError.
        """
        if params.structured_outputs is None:
            return None
        try:
            return self.grammars.compile(of_params(params.structured_outputs))
        except GrammarError as error:
            raise RequestError(str(error)) from error

    def seeded(self, params: SamplingParams) -> SamplingParams:
        """Gives parameters without a seed one that follows from the model's, the next each time."""
        if self._seed is None or params.seed is not None:
            return params
        words = np.random.SeedSequence([self._seed, next(self._numbers)]).generate_state(2, np.uint64)
        return replace(params, seed=int(words[0]) << 64 | int(words[1]))

    def _template(self, wanted: str | None, tokenizer: Tokenizer) -> tuple[ChatTemplate, str | None]:
        """Returns a template, and the name of the one in it."""
        if wanted is not None and not isinstance(wanted, str):
            raise RequestError(f"chat_template is a text, not of type {type(wanted).__name__}")
        with self._lock:
            if None not in self._templates:
                own = load_chat_template(self._metadata, tokenizer)
                if own is not None:
                    self._templates[None] = own
            file = self._templates.get(None)
            if file is not None and (wanted is None or wanted in file.names):
                return file, wanted
            if wanted is None:
                raise ChatTemplateError(
                    "the model file has no chat template; give one with chat_template, or use generate"
                )
            if wanted not in self._templates:
                made = load_chat_template({KEY: wanted}, tokenizer)
                assert made is not None, "a template of a text"
                # The one before ends with its object, once nobody renders with it: to wait here for that
                # would have all others wait, who render with the model's own.
                self._templates = {None: file} if file is not None else {}
                self._templates[wanted] = made
            return self._templates[wanted], None
