"""`--override-kv KEY=TYPE:VALUE`: metadata of a model file, changed before anything reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from tplaunch.launcher.errors import UsageError

Value: TypeAlias = int | float | bool | str
EXAMPLE = "llama.context_length=int:8192 or tokenizer.ggml.add_bos_token=bool:false"
OF_THE_FILE = re.compile(r"general\.alignment|split\..*")  # how it is laid out: no matter of the model


def _integer(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{number} has more than 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text} is neither true nor false")
    return text == "true"


# As llama.cpp names the types.
READERS: dict[str, Callable[[str], Value]] = {
    "int": _integer, "float": _number, "bool": _boolean, "str": str
}  # fmt: skip


def parse_overrides(texts: Sequence[str]) -> tuple[tuple[str, Value], ...]:
    """Raises UsageError for what has another form; a key that stands twice gets its last value."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> tuple[str, Value]:
    key, _, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not colon or kind not in READERS:
        raise UsageError(
            f"--override-kv {text:.60}: KEY=TYPE:VALUE is needed with a TYPE of {', '.join(READERS)},"
            f" such as {EXAMPLE}"
        )
    if OF_THE_FILE.fullmatch(key):
        raise UsageError(f"--override-kv {text:.60}: {key:.40} says how the file is laid out, which stays")
    try:
        return key, READERS[kind](value)
    except ValueError:
        raise UsageError(f"--override-kv {text:.60}: {value!r:.40} is no {kind}; such as {EXAMPLE}") from None


def overridden(metadata: Mapping[str, Any], overrides: Sequence[tuple[str, Value]]) -> dict[str, Any]:
    """The metadata with these keys set, whether they were there or not."""
    return {**metadata, **dict(overrides)}
