"""`/set`: the sampling fields of a chat, by their own names or the options', with the fields' own checks."""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.sampling_options import FIELDS_BY_OPTION

# An answer is one text, and nobody asks for numbers beside it.
_NOT_HERE = ("n", "logprobs", "prompt_logprobs", "detokenize")
NAMES = tuple(field.name for field in dataclasses.fields(SamplingParams) if field.name not in _NOT_HERE)
_NONE = ("none", "null", "off")


class SettingError(ValueError):
    """A field can't be set so; one sentence."""


def changed(params: SamplingParams, words: str) -> tuple[SamplingParams, str]:
    """The parameters with a field as `words` say, such as "temperature 0.3"; and the field.

    Raises SettingError.
    """
    name, _, value = words.strip().replace("=", " ", 1).partition(" ")
    field = _field(name)
    if not value.strip():
        raise SettingError(f"{field} is {shown(getattr(params, field))}; /set {field} VALUE changes it")
    try:
        return dataclasses.replace(params, **{field: _value(value.strip())}), field
    except ValueError as error:
        raise SettingError(str(error)) from None


def described(params: SamplingParams) -> dict[str, str]:
    """Each field's value, for people."""
    return {name: shown(getattr(params, name)) for name in NAMES}


def shown(value: Any) -> str:
    """A field's value as /set takes it."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _field(name: str) -> str:
    known = {**FIELDS_BY_OPTION, "n": "max_tokens", **{name: name for name in NAMES}}
    plain = name.lstrip("-").replace("-", "_").lower()
    if plain in known:
        return known[plain]
    near = difflib.get_close_matches(plain, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; /set alone shows those there are"
    raise SettingError(f"there is no field {name!r:.40}{hint}")


def _value(text: str) -> Any:
    """Returns the JSON value that a text denotes; a text that is not JSON stays a text."""
    if text.lower() in _NONE:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # brackets in thousands of brackets
        return text
