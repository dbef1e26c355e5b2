"""A task as JSON lines: prompts with choices that are scored, or with an answer that is to be written.

    {"prompt": "The dog was", "choices": [" happy", " blue"], "answer": 0}
    {"prompt": "Lily had a little", "answer": "dog", "stop": [".", " "], "max_tokens": 8}

A choice stands right behind the prompt, with whatever space it begins with. The numbers have the names and
meanings of lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.batches.lines import LineError, objects
from tplaunch.coordinator.evaluation.scoring import Score
from tplaunch.coordinator.evaluation.statistics import Estimate, mean

MAX_CHOICES = 1000
MAX_STOPS = 64
MAX_TOKENS = 1 << 20
DEFAULT_STOP = ("\n",)
DEFAULT_MAX_TOKENS = 64
KEYS = {"prompt", "choices", "answer", "stop", "max_tokens"}


@dataclass(frozen=True)
class Choices:
    """A prompt, and what may follow it."""

    line: int
    prompt: str
    choices: tuple[str, ...]
    answer: int  # the place of the right one

    def result(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Returns what came of it, as plain data. scores: of the choices."""
        sums = np.array([score.logprob for score in scores])
        texts = [choice.lstrip() or choice for choice in self.choices]
        picked = {
            "acc": int(sums.argmax()),
            "acc_norm": int((sums / [len(text) for text in texts]).argmax()),
            "acc_bytes": int((sums / [len(text.encode()) for text in texts]).argmax()),
        }
        return {
            "line": self.line,
            "answer": self.answer,
            "chosen": picked["acc"],
            "loglikelihoods": sums.tolist(),
            **{name: int(place == self.answer) for name, place in picked.items()},
        }


@dataclass(frozen=True)
class Written:
    """A prompt, and the text that is to be written behind it."""

    line: int
    prompt: str
    answer: str
    stop: tuple[str, ...]
    max_tokens: int

    def result(self, text: str) -> dict[str, Any]:
        """Returns what came of it, as plain data. Spaces around both texts do not count."""
        is_right = text.strip() == self.answer.strip()
        return {"line": self.line, "answer": self.answer, "text": text, "exact_match": int(is_right)}


def read_task(path: Path, most: int | None = None) -> list[Choices | Written]:
    """Returns the items of a file, at most so many of the first. Raises InputError that names the line."""
    items: list[Choices | Written] = []
    for number, found in objects(path):
        if most is not None and len(items) == most:
            break
        try:
            items.append(_item(number, found))
        except LineError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not items:
        raise InputError(f"{path} is empty: a task has a JSON object a line, with prompt and answer")
    return items


def metrics(results: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """The mean of each number over all items that have it, with its standard error."""
    found = {}
    for name in ("acc", "acc_norm", "acc_bytes", "exact_match"):
        values = [float(result[name]) for result in results if name in result]
        if values:
            found[name] = mean(np.array(values))
    return found


def _item(line: int, found: Mapping[str, Any]) -> Choices | Written:
    unknown = found.keys() - KEYS
    if unknown:
        raise LineError(f"the key {min(unknown)!r:.40} is unknown; known are {', '.join(sorted(KEYS))}")
    prompt, answer = _text(found, "prompt"), found.get("answer")
    if "choices" not in found:
        if not isinstance(answer, str) or not answer.strip():
            raise LineError("answer is a text, or with choices the place of the right one, from 0")
        return Written(line, prompt, answer, _stop(found), _max_tokens(found))
    choices = found["choices"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_CHOICES:
        raise LineError(f"choices is a list of 2 to {MAX_CHOICES} texts")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise LineError("a choice is a text that is not empty")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise LineError(
            f"answer is the place of the right choice, 0 to {len(choices) - 1}, not {answer!r:.40}"
        )
    if "stop" in found or "max_tokens" in found:
        raise LineError("stop and max_tokens go with an answer that is written, not with choices")
    return Choices(line, prompt, tuple(choices), answer)


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise LineError(f"{key} is a text" + ("" if key in found else ", and it is missing"))
    return value


def _stop(found: Mapping[str, Any]) -> tuple[str, ...]:
    stop = found.get("stop", DEFAULT_STOP)
    listed = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, list | tuple) else []
    if not 1 <= len(listed) <= MAX_STOPS or not all(isinstance(text, str) and text for text in listed):
        raise LineError(f"stop is a text, or a list of 1 to {MAX_STOPS} texts, none of them empty")
    return tuple(listed)


def _max_tokens(found: Mapping[str, Any]) -> int:
    value = found.get("max_tokens", DEFAULT_MAX_TOKENS)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOKENS:
        raise LineError(f"max_tokens is a whole number of 1 to {MAX_TOKENS}, not {value!r:.40}")
    return value
