"""Writes grammars in llguidance's dialect of Lark.

There, a control token is no text: it is written as <[id]>. Everything else that a model writes is strings,
regular expressions and JSON schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

NEWLINE = "\0"  # in literals: a line end that may be there
_ANY = r"/(?s:.*)/"


class Lark:
    """A grammar that is being written. control_tokens: the ids by their texts."""

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        self._tokens = control_tokens
        names = sorted((name for name in control_tokens if name), key=len, reverse=True)
        self._splitter = re.compile("|".join([NEWLINE, *map(re.escape, names)]))
        self._rules: list[str] = []

    def literal(self, text: str) -> str:
        """Returns the rule of a text, with the control tokens within it."""
        parts, at = [], 0
        for found in self._splitter.finditer(text):
            parts.append(_quoted(text[at : found.start()]))
            token = self._tokens.get(found.group())
            parts.append('"\\n"?' if token is None else f"<[{token}]>")
            at = found.end()
        return " ".join(part for part in [*parts, _quoted(text[at:])] if part)

    def optional(self, text: str) -> str:
        """Returns the rule of a text that may be there."""
        return f"({self.literal(text)})?" if text else ""

    def rule(self, body: str, options: str = "") -> str:
        """Adds a rule and returns its name."""
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def reserve(self) -> str:
        """Returns the name of a rule that is filled later, for it may hold itself."""
        return self.rule("")

    def fill(self, name: str, body: str) -> None:
        """Says what a reserved rule stands for."""
        self._rules[int(name.removeprefix("rule_"))] = f"{name}: {body}"

    def schema(self, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> str:
        """A JSON value by its schema; root: the schema whose definitions it may refer to."""
        definitions = {key: root[key] for key in ("$defs", "definitions") if root and key in root}
        return self.rule("%json " + json.dumps({**definitions, **schema}))

    def text_until(self, end: str) -> str:
        """Any text up to an end, and the end; the text does not hold the end's first marker.

        A line end before the marker may be missing: it goes with the text.
        """
        end = end.lstrip(NEWLINE + "\n")
        token = self._splitter.match(end)
        if token:
            return f"{self._text_without(token.group())} {self.literal(end)}"
        body = end.rstrip(NEWLINE + "\n")
        return f"{self.rule(_ANY, f'[suffix={_quoted(body)}]')} {self.literal(end[len(body) :])}"

    def _text_without(self, marker: str) -> str:
        """Any text that does not spell a control token: a reader would take the spelling for the token."""
        name = f"TEXT_{len(self._rules)}"
        spelled = re.escape(marker).replace("/", r"\/")
        self._rules.append(f"{name}: {_ANY} & ~/(?s:.*){spelled}(?s:.*)/")
        return name

    def choice(self, bodies: Iterable[str]) -> str:
        """One of several."""
        return self.rule(" | ".join(bodies))

    def either(self, texts: Iterable[Any]) -> str:
        """One of several texts."""
        return "(" + " | ".join(self.literal(str(text)) or '""' for text in texts) + ")"

    def repeated(self, body: str, between: str, parallel: bool) -> str:
        """One call, or several where they are allowed."""
        if not parallel:
            return body
        return f"{body} ({self.literal(between)} {body})*" if between else f"{body}+"

    def finished(self, start: str) -> str:
        """The whole grammar, whose text begins as start says."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._rules]) + "\n"


def arguments_schema(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a call's arguments, which are an object in any case."""
    return parameters if "type" in parameters else {**parameters, "type": "object"}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
