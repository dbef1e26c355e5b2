"""A request's wish for what its text shall look like, as people write it. Knows no grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StructuredOutputsParams:
    """Says what a text shall look like, by one of five ways; the names are vLLM's.

    Raises ValueError where not exactly one is given.
    """

    json: str | Mapping[str, Any] | bool | None = None  # a JSON schema, or its text
    regex: str | None = None  # that matches the whole text
    choice: Sequence[str] | None = None  # of texts
    grammar: str | None = None  # in llguidance's dialect of Lark
    json_object: bool | None = None  # True: any JSON object

    def __post_init__(self) -> None:
        if self.json_object not in (None, True, False):
            raise ValueError(f"json_object must be True or False, not {self.json_object!r:.80}")
        given = [name for name in ("json", "regex", "choice", "grammar") if getattr(self, name) is not None]
        given += ["json_object"] if self.json_object else []
        if len(given) != 1:
            raise ValueError(
                "structured_outputs must have one of json, regex, choice, grammar and json_object, not"
                f" {' and '.join(given) or 'none'}"
            )
