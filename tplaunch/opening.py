"""Opens a model by the arguments of the Python API, and turns a program's prompts into tokens."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tplaunch.coordinator.gguf.header import GgufError
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.split.plan import MAX_RANKS, PlanError
from tplaunch.coordinator.text.chat.conversation import with_texts
from tplaunch.coordinator.text.chat.template import (
    KEY,
    ChatTemplate,
    ChatTemplateError,
    encode_chat,
    load_chat_template,
)
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.devices import CPU, DeviceChoice, select_devices
from tplaunch.launcher.driver import Driver, start_driver
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange, say_arrangement
from tplaunch.launcher.keywords import config_of, in_keywords
from tplaunch.launcher.model import open_model
from tplaunch.prompts import text_or_ids

PARALLEL_NAMES = {"parallel", "max_num_seqs"}
RECURRENT_PARALLEL = 8  # where nothing is said: each text keeps a state of megabytes


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
        self._lock = threading.Lock()  # for _templates
        self._templates: dict[str | None, ChatTemplate] = {}  # the model file's own, and the last other one

    def close(self) -> None:
        """Gives back everything, and waits for that. Closing again does nothing."""
        self.driver.close()
        with self._lock:
            for template in self._templates.values():
                template.close()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model file's own; None where it has none that can be used."""
        return None if isinstance(self._tokenizer, TokenizerError) else self._tokenizer

    def needed_tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the model file has none that can be used."""
        if isinstance(self._tokenizer, TokenizerError):
            raise TokenizerError(in_keywords(str(self._tokenizer)))
        return self._tokenizer

    def tokens_of(self, prompt: Any) -> tuple[str | None, list[int]]:
        """Returns a prompt's text, if it has one, and token ids. Raises RequestError or TokenizerError."""
        text, ids = text_or_ids(prompt)
        return text, self.needed_tokenizer().encode(text or "") if ids is None else ids

    def rendered(self, conversation: Any, options: ChatOptions) -> tuple[str, list[int]]:
        """Returns a conversation as text and as token ids.

        Raises RequestError, ChatTemplateError or TokenizerError.
        """
        tokenizer = self.needed_tokenizer()
        template, name = self._template(options.chat_template, tokenizer)
        extra = {str(key): value for key, value in (options.chat_template_kwargs or {}).items()}
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
                for source in [source for source in self._templates if source is not None]:
                    self._templates.pop(source).close()
                self._templates[wanted] = made
            return self._templates[wanted], None


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer | TokenizerError:
    """Returns a model file's tokenizer, or the reason why it can't be used."""
    try:
        return load_tokenizer(metadata)
    except TokenizerError as error:
        return error


def open_keywords(
    model: str | os.PathLike[str] | None,
    tensor_parallel_size: int | None,
    seed: int | None,
    keywords: Mapping[str, Any],
) -> Opened:
    """Loads a model. keywords: the command line's options, by the same names.

    Raises UsageError for what is wrong with them or with the model file, RunError where loading fails.
    """
    config = config_of(model, keywords)
    _check_integer("seed", seed, 0, 2**64 - 1)
    _check_integer("tensor_parallel_size", tensor_parallel_size, 1, MAX_RANKS)
    try:
        choices = select_devices(config.devices)
        if tensor_parallel_size is not None:
            choices = _as_many(choices, tensor_parallel_size, config.devices, "devices" in keywords)
            config = replace(config, devices=",".join(map(_word, choices)))
        opened = open_model(config)
        if opened.spec.is_recurrent and not PARALLEL_NAMES & keywords.keys():
            config = replace(config, parallel=RECURRENT_PARALLEL)
        arrangement = arrange(config, opened, choices)
    except (UsageError, GgufError, ModelError, PlanError) as error:
        raise UsageError(in_keywords(str(error))) from error
    say_arrangement(config, opened, arrangement)
    tokenizer = tokenizer_of(opened.metadata)
    usable = None if isinstance(tokenizer, TokenizerError) else tokenizer
    driver = start_driver(config, opened, arrangement, usable)
    return Opened(driver, opened.metadata, tokenizer, seed)


def _as_many(choices: list[DeviceChoice], count: int, devices: str, were_named: bool) -> list[DeviceChoice]:
    """Returns the first `count` devices; they are used in turn where there are fewer."""
    if were_named and len(choices) != count:
        raise UsageError(
            f"tensor_parallel_size is {count}, but devices={devices!r:.60} names {len(choices)};"
            " leave one of them out"
        )
    return list(itertools.islice(itertools.cycle(choices), count))


def _word(choice: DeviceChoice) -> str:
    """Returns what names the device on the command line."""
    return CPU if choice.index is None else str(choice.index)


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_integer and least <= value <= most):
        raise UsageError(f"{name} is a whole number of {least} to {most}, not {value!r:.40}")
