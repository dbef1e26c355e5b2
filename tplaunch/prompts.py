"""The forms in which the Python API takes prompts, as vLLM's does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tplaunch.coordinator.text.tokenizer import Tokenizer

# A text, token ids, or {"prompt": text} or {"prompt_token_ids": ids}.
Prompt: TypeAlias = str | Sequence[int] | Mapping[str, Any]


class PromptError(ValueError):
    """A prompt of a form that is not known; the sentence says which are."""


def prompts_of(given: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts, from one or several."""
    if isinstance(given, str | Mapping):
        return [given]
    listed: list[Any] = list(given)
    if listed and all(_is_token(one) for one in listed):
        return [listed]
    return listed


def tokens_of(prompt: Prompt, tokenizer: Tokenizer | None) -> tuple[str | None, list[int]]:
    """The text of a prompt, if it has one, and its token ids. Raises PromptError or TokenizerError."""
    if isinstance(prompt, Mapping):
        if "prompt_token_ids" in prompt:
            return _text(prompt.get("prompt")), _ids(prompt["prompt_token_ids"])
        if "prompt" not in prompt:
            raise PromptError(
                f"a prompt has one of the keys prompt and prompt_token_ids, not {_names(prompt)}"
            )
        prompt = prompt["prompt"]
    if not isinstance(prompt, str):
        return None, _ids(prompt)
    if tokenizer is None:
        raise PromptError("the model file has no tokenizer that can be used; give prompts as token ids")
    return prompt, tokenizer.encode(prompt)


def _text(text: Any) -> str | None:
    return text if isinstance(text, str) else None


def _ids(ids: Any) -> list[int]:
    if isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise PromptError(f"a prompt is a text or a list of token ids, not of type {type(ids).__name__}")
    listed = list(ids)
    wrong = next((one for one in listed if not _is_token(one)), None)
    if wrong is not None:
        raise PromptError(f"a prompt's token ids are whole numbers, not {wrong!r:.40}")
    return [int(one) for one in listed]


def _is_token(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _names(prompt: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, prompt)) or "none"
