"""The forms in which a client says what a text shall look like, and what of them is refused before compiling.

Knows JSON Schema's words where they would be ignored in silence; knows no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.serving.sampling.structured import StructuredOutputsParams

KINDS = ("json_schema", "json_object", "regex", "lark", "choice")
_AROUND = "around"
_OPTIONS = "x-guidance"  # llguidance's own: by them a schema could have it ignore keywords
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+\s*::=", re.MULTILINE)  # llama.cpp's
_TOO_OLD = ("draft-01", "draft-02", "draft-03")  # of JSON Schema: their keywords would be ignored


class GrammarError(ValueError):
    """A grammar that can't be enforced; the message says in one sentence what of it, and why."""


@dataclass(frozen=True)
class GrammarLimits:
    """The limits on one grammar. Whoever meets them fails alone."""

    max_bytes: int = 1 << 19  # of the specification, as JSON
    max_depth: int = 60  # of lists and objects within each other; llguidance reads about 120
    max_seconds: float = 2.0  # of computing time for compiling
    max_memory: int = 1 << 30  # bytes of the process that compiles it first
    mask_seconds: float = 0.02  # of computing time for a token's mask, on the average
    spare_seconds: float = 1.0  # beyond that, for all of a text's masks together

    def __post_init__(self) -> None:
        assert self.max_bytes > 0 and self.max_depth > 0
        assert self.max_seconds > 0 and self.max_memory > 0
        assert self.mask_seconds > 0 and self.spare_seconds > 0


@dataclass(frozen=True)
class GrammarSpec:
    """A wish for what a text shall look like, made by the functions below."""

    kind: str  # one of KINDS, or _AROUND
    source: str  # the schema or the choices as JSON, the expression or the grammar itself

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, _AROUND):
            raise GrammarError(f"a grammar is one of {', '.join(KINDS)}, not {self.kind!r:.40}")

    @property
    def name(self) -> str:
        """The name by which sentences call it."""
        if self.kind == _AROUND:
            return _inner(self)[1].name
        names = {"json_schema": "JSON schema", "json_object": "JSON object", "regex": "regular expression"}
        return names.get(self.kind, "Lark grammar" if self.kind == "lark" else "choice")


def json_schema(schema: Any) -> GrammarSpec:
    """A text that is JSON, as a schema (an object, true, or its text) has it. Raises GrammarError."""
    if isinstance(schema, str | bytes):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema is no JSON: {error}") from None
    if isinstance(schema, Mapping):
        schema = dict(schema)
    if not isinstance(schema, dict | bool):
        raise GrammarError(f"a JSON schema is an object, or true or false, not of type {_type(schema)}")
    return GrammarSpec("json_schema", _dumped(schema))


def json_object() -> GrammarSpec:
    """A text that is any JSON object."""
    return GrammarSpec("json_object", '{"type": "object"}')


def regex(expression: Any) -> GrammarSpec:
    """A text that a regular expression matches from its begin to its end. Raises GrammarError."""
    return GrammarSpec("regex", _text("a regular expression", expression))


def lark(grammar: Any) -> GrammarSpec:
    """A text of a grammar in llguidance's dialect of Lark. Raises GrammarError."""
    text = _text("a Lark grammar", grammar)
    if _GBNF_RULE.search(text):
        raise GrammarError(
            'the grammar is GBNF, and Lark\'s are read: rules such as start: "yes" | "no", or a JSON schema'
        )
    return GrammarSpec("lark", text)


def choice(texts: Any) -> GrammarSpec:
    """One of some texts. Raises GrammarError."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise GrammarError(f"a choice is a list of texts, not of type {_type(texts)}")
    for text in texts:
        _text("each text of a choice", text)
    if not texts:
        raise GrammarError("a choice needs at least one text")
    return GrammarSpec("choice", _dumped(list(dict.fromkeys(texts))))


def around(grammar: str, form: GrammarSpec) -> GrammarSpec:
    """A text of a Lark grammar, in which @form stands for a text of another one."""
    return GrammarSpec(_AROUND, json.dumps([grammar, form.kind, form.source]))


def of_kind(kind: str, value: Any) -> GrammarSpec:
    """The grammar of one of KINDS; value: a schema, None, an expression, a grammar, or texts."""
    if kind == "json_object":
        return json_object()
    makers = {"json_schema": json_schema, "regex": regex, "lark": lark, "choice": choice}
    if kind not in makers:
        raise GrammarError(f"a grammar is one of {', '.join(KINDS)}, not {kind!r:.40}")
    return makers[kind](value)


def of_params(wanted: StructuredOutputsParams) -> GrammarSpec:
    """The grammar that a request's parameters ask for. Raises GrammarError."""
    if wanted.json is not None:
        return json_schema(wanted.json)
    if wanted.regex is not None:
        return regex(wanted.regex)
    if wanted.choice is not None:
        return choice(wanted.choice)
    return json_object() if wanted.grammar is None else lark(wanted.grammar)


def llguidance_grammar(spec: GrammarSpec, limits: GrammarLimits) -> str:
    """The grammar in llguidance's own form. Raises GrammarError for what is refused without compiling."""
    size = len(spec.source.encode("utf-8", "surrogatepass"))
    if size > limits.max_bytes:
        raise GrammarError(f"the {spec.name} has {size} bytes, and at most {limits.max_bytes} are compiled")
    if spec.kind == _AROUND:
        grammar, form = _inner(spec)
        (inner,) = json.loads(llguidance_grammar(form, limits))["grammars"]
        return json.dumps({"grammars": [{"lark_grammar": grammar}, {**inner, "name": "form"}]})
    if spec.kind == "regex":
        from llguidance import LLMatcher

        return LLMatcher.grammar_from_regex(spec.source)
    if spec.kind == "lark":
        return json.dumps({"grammars": [{"lark_grammar": spec.source}]})
    if spec.kind == "choice":
        texts = " | ".join(map(json.dumps, json.loads(spec.source)))
        return json.dumps({"grammars": [{"lark_grammar": f"start: {texts}"}]})
    schema = json.loads(spec.source)
    _check_schema(schema, limits)
    return json.dumps({"grammars": [{"json_schema": schema}]})


def _inner(spec: GrammarSpec) -> tuple[str, GrammarSpec]:
    """The grammar and the form of a grammar around a form."""
    grammar, kind, source = json.loads(spec.source)
    return grammar, GrammarSpec(kind, source)


def _check_schema(schema: Any, limits: GrammarLimits) -> None:
    depth = _depth(schema)
    if depth > limits.max_depth:
        raise GrammarError(
            f"the JSON schema has lists and objects within each other {depth} deep, and at most"
            f" {limits.max_depth} are compiled"
        )
    if not isinstance(schema, dict):
        return
    if _OPTIONS in schema:
        raise GrammarError(f"{_OPTIONS} is no keyword of JSON schemas; leave it out")
    version = str(schema.get("$schema", ""))
    if any(draft in version for draft in _TOO_OLD):
        raise GrammarError(f"the JSON schema is of {version!r:.80}, and draft 4 to 2020-12 can be enforced")


def _depth(value: Any) -> int:
    """The number of lists and objects within each other, found without recursion."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list) and one]:
        depth += 1
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
    return depth


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"the grammar can't be written as JSON: {error}") from None


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise GrammarError(f"{what} is a text, not of type {_type(value)}")
    return value


def _type(value: Any) -> str:
    return type(value).__name__
