"""The forms in which the Python API takes prompts, conversations and parameters, as vLLM's does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.chat.process import ChatTemplateError
from tplaunch.coordinator.text.tokenizer import TokenizerError

# A text, token ids, or {"prompt": text} or {"prompt_token_ids": ids}.
Prompt: TypeAlias = "str | Sequence[int] | Mapping[str, Any]"
Conversation: TypeAlias = "Sequence[Mapping[str, Any]]"  # objects with role and content


def prompts_of(given: Prompt | Sequence[Prompt]) -> tuple[list[Any], bool]:
    """Returns the prompts as a list, and whether only one was given, and that not in a list."""
    if isinstance(given, str | Mapping):
        return [given], True
    if not hasattr(given, "__iter__") or isinstance(given, bytes):
        raise RequestError(f"prompts are texts or lists of token ids, not of type {type(given).__name__}")
    listed = list(given)
    if listed and all(map(_is_token, listed)):
        return [listed], True
    return listed, False


def conversations_of(given: Conversation | Sequence[Conversation]) -> tuple[list[Any], bool]:
    """Returns the conversations as a list, and whether only one was given, and that not in a list."""
    if isinstance(given, str | Mapping | bytes) or not hasattr(given, "__iter__"):
        raise RequestError(
            f"a conversation is a list of messages, such as [{{'role': 'user', 'content': 'Hello'}}],"
            f" not of type {type(given).__name__}"
        )
    listed: list[Any] = list(given)
    if listed and all(isinstance(one, Mapping) for one in listed):
        return [listed], True
    return listed, False


def parameters_of(
    given: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
) -> list[SamplingParams]:
    """Returns the parameters of each prompt; the same ones for all where one is given, or none."""
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * num_prompts
    if isinstance(given, str | Mapping) or not hasattr(given, "__iter__"):
        raise RequestError(f"sampling_params is of type {type(given).__name__}, not SamplingParams")
    listed = list(given)
    wrong = next((one for one in listed if not isinstance(one, SamplingParams)), None)
    if wrong is not None:
        raise RequestError(f"sampling_params has a {type(wrong).__name__} among the SamplingParams")
    if len(listed) != num_prompts:
        raise RequestError(f"there are {num_prompts} prompts, but {len(listed)} sampling_params")
    return listed


def text_or_ids(prompt: Any) -> tuple[str | None, list[int] | None]:
    """Returns the text of a prompt and its token ids; one of them may be None. Raises RequestError."""
    if isinstance(prompt, Mapping):
        text = prompt.get("prompt")
        if "prompt_token_ids" in prompt:
            return text if isinstance(text, str) else None, _ids(prompt["prompt_token_ids"])
        if "prompt" not in prompt:
            names = ", ".join(map(repr, prompt)) or "none"
            raise RequestError(f"a prompt has one of the keys prompt and prompt_token_ids, not {names:.80}")
        prompt = text
    if isinstance(prompt, str):
        return prompt, None
    return None, _ids(prompt)


def tokens_of(opened: Opened, prompt: Any) -> tuple[str | None, list[int]]:
    """Returns a prompt's text, if it has one, and token ids. Raises RequestError or TokenizerError."""
    text, ids = text_or_ids(prompt)
    return text, opened.needed_tokenizer().encode(text or "") if ids is None else ids


@contextmanager
def named(index: int, *, is_only: bool) -> Iterator[None]:
    """Makes a RequestError of what is wrong with a prompt; it names the prompt where there are several."""
    try:
        yield
    except (RequestError, TokenizerError, ChatTemplateError) as error:
        raise RequestError(which(index, is_only=is_only) + str(error)) from error


def which(index: int, *, is_only: bool) -> str:
    """Returns how a sentence about a prompt begins: with its index among several."""
    return "" if is_only else f"prompts[{index}]: "


def _ids(ids: Any) -> list[int]:
    if isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise RequestError(f"a prompt is a text or a list of token ids, not of type {type(ids).__name__}")
    listed = list(ids)
    wrong = next((one for one in listed if not _is_token(one)), None)
    if wrong is not None:
        raise RequestError(f"a prompt's token ids are whole numbers, not {wrong!r:.40}")
    return [int(one) for one in listed]


def _is_token(value: Any) -> bool:
    # Arrays, which are prompts, have __index__, too: for those without dimensions.
    return hasattr(value, "__index__") and not isinstance(value, bool) and not hasattr(value, "__len__")
