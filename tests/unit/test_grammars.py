"""Grammars become masks: what is generated under one is what it describes, or it is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from tests.grammars import ADDED, small_tokenizer, text_of, walk
from tests.unit.test_dna_tokenizer import load as dna
from tests.unit.test_unigram_tokenizer import load as unigram
from tplaunch.coordinator.serving.grammar import spec as specs
from tplaunch.coordinator.serving.grammar.compiler import MAX_CACHED, MAX_SHARED_TEXTS, GrammarCompiler
from tplaunch.coordinator.serving.grammar.spec import GrammarError, GrammarLimits, GrammarSpec
from tplaunch.coordinator.serving.grammar.vocabulary import MAX_FORCED, Words
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError
from tplaunch.coordinator.text.tokenizer import Tokenizer

pytestmark = pytest.mark.unit

TOKENIZER = small_tokenizer()
SIZE = TOKENIZER.vocabulary_size + 70  # padded, as many models' vocabularies are
(END,) = TOKENIZER.eos_token_ids


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(TOKENIZER, SIZE)
    yield made
    made.close()


def texts(compiler: GrammarCompiler, spec: GrammarSpec, num_texts: int = 8) -> list[str]:
    """Texts of random walks that came to an end."""
    grammar = compiler.compile(spec)
    found = [walk(grammar, TOKENIZER, SIZE, seed) for seed in range(num_texts)]
    return [text_of(TOKENIZER, tokens) for tokens in found if tokens is not None]


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["a"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 4},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"k": [1, 2]}}]},
    {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 5, "maximum": 99}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    {"type": ["string", "null"], "maxLength": 3},
    {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2}}, "$ref": "#/$defs/n"},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^a[0-9]$": {"type": "null"}}, "additionalProperties": False},
    {"prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "type": "array"},
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 3,
     "exclusiveMinimum": True, "maximum": 6},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_texts_under_a_schema_are_valid(compiler: GrammarCompiler, schema: Any) -> None:
    found = texts(compiler, specs.json_schema(schema))
    assert found
    validator = jsonschema_rs.validator_for(schema)
    for text in found:
        validator.validate(json.loads(text))


def test_a_schema_may_be_a_text_and_any_object_needs_none(compiler: GrammarCompiler) -> None:
    assert set(texts(compiler, specs.json_schema('{"enum": [1, 22]}'))) <= {"1", "22"}
    assert all(isinstance(json.loads(text), dict) for text in texts(compiler, specs.json_object()))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "format": "idn-email"}, "idn-email"),
        ({"type": "string", "format": "no-format"}, "no-format"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"properties": {"a": {"items": {"not": {}}}}, "type": "object"}, "not"),
        ({"if": {"type": "string"}, "then": {"maxLength": 3}}, "if"),
        ({"$ref": "#/$defs/none"}, r"/\$defs/none"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$dynamicRef": "#node"}, r"\$dynamicRef"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "dependencies": {"a": ["b"]}}, "dependencies"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "object", "minProperties": 2, "properties": {"a": {}, "b": {}}}, "Properties"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-a"),
        ({"type": "string", "pattern": "(a)\\1"}, "backreferences"),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 3}, "draft-03"),
        ({"not": {}, "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"allOf": [{"type": "string"}, {"type": "number"}]}, "Unsatisfiable"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"type": "no type"}, "no type"),
        (False, "false"),
        ({"$ref": "#"}, None),
        ([], "an object"),
        ("{", "no JSON"),
        ({"minimum": float("nan")}, "JSON"),
    ],
)
def test_what_of_a_schema_is_not_enforced_is_refused(
    compiler: GrammarCompiler, schema: Any, named: str | None
) -> None:
    with pytest.raises(GrammarError, match=named) as raised:
        compiler.compile(specs.json_schema(schema))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "expression", ["(ab|c){2,3}x?", "[0-9]{3}-[a-z]", "(?i)yes|no", "", "a|", "[^\\x00-\\x7f]"]
)
def test_texts_match_their_expression(compiler: GrammarCompiler, expression: str) -> None:
    found = texts(compiler, specs.regex(expression))
    assert found and all(re.fullmatch(expression, text) for text in found)


def test_a_choice_is_one_of_its_texts(compiler: GrammarCompiler) -> None:
    given = ["yes", "no", "", 'quo"ted\n', "é✓", "a.b|c"]
    assert set(texts(compiler, specs.choice(given), 80)) == set(given)


def test_lark_grammars_may_name_control_tokens(compiler: GrammarCompiler) -> None:
    spec = specs.lark('start: <|tool|> name "{" /[0-9]/ "}"\nname: "f" | "g"')
    assert all(re.fullmatch(r"<\|tool\|>[fg]\{[0-9]\}", text) for text in texts(compiler, spec))
    by_number = specs.lark(f"start: <[{256 + 9 + 1}]> /a/")
    assert set(texts(compiler, by_number)) == {"<|tool|>a"}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (specs.regex("["), "unclosed"),
        (specs.regex("a$b"), "look"),
        (specs.regex("a\\b"), "look"),
        (specs.lark("x: /a/"), "start"),
        (specs.lark("start: /a/ <|none|>"), "none"),
        (specs.lark("start: <[99999]>"), "99999"),
        (specs.lark('start: %json {"not": {}}'), "not"),
        (specs.lark('start: %json {"not": {}, "x-guidance": {"lenient": true}}'), "not"),
        (specs.lark('{"grammars": [{"json_schema": {}}]}'), None),
        (specs.lark("start: \ud800"), None),
        (specs.choice(["\ud800"]), None),
    ],
)
def test_grammars_that_can_not_be_read_are_refused(
    compiler: GrammarCompiler, spec: GrammarSpec, named: str | None
) -> None:
    with pytest.raises(GrammarError, match=named):
        compiler.compile(spec)


@pytest.mark.parametrize(
    ("make", "given"),
    [(specs.regex, 3), (specs.lark, None), (specs.choice, "abc"), (specs.choice, []), (specs.choice, [1])],
)
def test_grammars_of_other_types_are_refused(make: Any, given: Any) -> None:
    with pytest.raises(GrammarError):
        make(given)


def test_grammars_of_llama_cpp_are_refused_by_name() -> None:
    for gbnf in ('root ::= "yes" | "no"', "x ::= [a-z]\n\n  root\n::= x+"):
        with pytest.raises(GrammarError, match="the grammar is GBNF, and Lark's are read"):
            specs.lark(gbnf)
    assert specs.lark('start: "root ::= x"').kind == "lark"


def test_grammars_are_made_by_the_name_of_their_kind() -> None:
    assert specs.of_kind("json_schema", {"const": 1}) == specs.json_schema('{"const": 1}')
    assert specs.of_kind("json_object", None) == specs.json_object()
    assert specs.of_kind("regex", "a") == specs.regex("a") != specs.lark("a") == specs.of_kind("lark", "a")
    assert specs.of_kind("choice", ["a", "b", "a"]) == specs.choice(["a", "b"])
    with pytest.raises(GrammarError, match="not 'gbnf'"):
        specs.of_kind("gbnf", "")


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


def chain(length: int) -> str:
    """A grammar whose terminals each need the next one."""
    return f"start: T{length}\nT0: /a/\n" + "\n".join(f'T{n + 1}: "x" T{n}' for n in range(length))


def doubling() -> str:
    return "start: T40\nT0: /a/\n" + "\n".join(f"T{n + 1}: T{n} T{n}" for n in range(40))


HOSTILE: dict[str, Callable[[], GrammarSpec]] = {
    "deep": lambda: specs.json_schema(nested(300)),
    "deeper": lambda: specs.json_schema(nested(100_000)),
    "enum": lambda: specs.json_schema({"enum": [f"value {n}" for n in range(60_000)]}),
    "multiples": lambda: specs.json_schema({"type": "integer", "multipleOf": 1000003}),
    "terminals": lambda: specs.lark(chain(20_000)),
    "doubling": lambda: specs.lark(doubling()),
    "references": lambda: specs.json_schema(
        {
            "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)} | {"d3000": {}},
            "$ref": "#/$defs/d0",
        }
    ),
    "product": lambda: specs.json_schema(
        {
            "allOf": [
                {"anyOf": [{"type": "object", "properties": {f"a{n}_{m}": {"const": m}}} for m in range(10)]}
                for n in range(12)
            ]
        }
    ),
    "optional": lambda: specs.regex("a?" * 20_000),
    "groups": lambda: specs.regex("(" * 100_000 + "a" + ")" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_in_time(compiler: GrammarCompiler, name: str) -> None:
    begin = time.process_time()
    for _ in range(2):  # the second time without trying
        with pytest.raises(GrammarError):
            compiler.compile(HOSTILE[name]())
    assert time.process_time() - begin < 5  # the other process has limits of its own
    assert texts(compiler, specs.choice([name])) == [name] * 8


@pytest.mark.parametrize(
    "expression",
    ["(a{1,1000}){1,1000}", "(\\p{L}+ ?){1,200}", "((a{1,100}){1,100}){1,100}", "\\w{1,5000}", "(.*a.{40})*"],
)
def test_grammars_that_grow_as_they_go_fail_alone(compiler: GrammarCompiler, expression: str) -> None:
    """They compile at once; what a mask may take is bounded, and the text ends with the grammar's error."""
    try:
        mask = compiler.compile(specs.regex(expression)).start(SIZE, frozenset({END}))
    except GrammarError:
        return
    generated: list[int] = []
    begin = time.process_time()
    try:
        while len(generated) < 300:
            table = mask.allowed(generated)
            generated.append(next(token for token in np.flatnonzero(table).tolist() if token != END))
    except (ConstraintError, StopIteration):
        pass
    assert time.process_time() - begin < 10


def test_masks_that_take_too_long_end_their_text() -> None:
    limits = GrammarLimits(mask_seconds=1e-9, spare_seconds=1e-4)
    compiler = GrammarCompiler(TOKENIZER, SIZE, limits)
    mask = compiler.compile(specs.regex("[a-z]{5000}")).start(SIZE, frozenset({END}))
    with pytest.raises(ConstraintError, match="ms of computing time"):
        for length in range(3000):
            mask.allowed([ord("a")] * length)
    compiler.close()


def test_specifications_have_a_size_and_a_depth() -> None:
    limits = replace(GrammarLimits(), max_bytes=100, max_depth=5)
    compiler = GrammarCompiler(TOKENIZER, SIZE, limits)
    with pytest.raises(GrammarError, match="101 bytes, and at most 100"):
        compiler.compile(specs.regex("a" * 101))
    with pytest.raises(GrammarError, match="7 deep, and at most 5"):
        compiler.compile(specs.json_schema('{"items":{"items":{"items":{"enum":[[[1]]]}}}}'))


def test_a_process_that_ended_is_started_again(compiler: GrammarCompiler) -> None:
    compiler.close()
    assert texts(compiler, specs.choice(["after the end"]))


def test_grammars_are_kept_and_not_without_end(compiler: GrammarCompiler) -> None:
    spec = specs.choice(["kept"])
    first = compiler.compile(spec)
    assert compiler.compile(spec) is first
    for _ in range(MAX_SHARED_TEXTS):
        first.start(SIZE, frozenset({END}))
    second = compiler.compile(spec)
    assert second is not first and compiler.compile(spec) is second
    for number in range(MAX_CACHED):
        compiler.compile(specs.choice([f"other {number}"]))
    assert compiler.compile(spec) is not second


def test_the_end_may_come_where_the_grammar_may_end_and_only_there(compiler: GrammarCompiler) -> None:
    stop = TOKENIZER.encode("b", add_special=False)[0]
    a = TOKENIZER.encode("a", add_special=False)[0]
    mask = compiler.compile(specs.regex("a{2}(ab)?")).start(SIZE, frozenset({END, stop, SIZE + 9}))
    allowed = [set(np.flatnonzero(mask.allowed([a] * length)).tolist()) for length in range(3)]
    assert allowed == [{a}, {a}, {a, END, stop}]


def test_a_mask_follows_other_tokens_too(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(specs.regex("(ab|cd)+"))
    a, b, c, d = TOKENIZER.encode("abcd", add_special=False)
    mask = grammar.start(SIZE, frozenset({END}))
    for generated in ([a], [a, b, c], [a, b, c, d], [c], [], [c, d], [a, b]):
        fresh = grammar.start(SIZE, frozenset({END})).allowed(list(generated))
        assert (mask.allowed(generated) == fresh).all()
    with pytest.raises(ConstraintError, match="can't go on"):
        mask.allowed([a, a])
    assert mask.allowed([a])[b]


def test_texts_that_use_up_what_they_share_go_on_alone(compiler: GrammarCompiler) -> None:
    """The lexer of a grammar's texts grows with each; at its limit it is of no use to the next one."""
    grammar = compiler.compile(specs.regex("(a{1,1000}){1,1000}"))
    a = TOKENIZER.encode("a", add_special=False)[0]

    def length() -> int:
        mask = grammar.start(SIZE, frozenset({END}))
        for count in range(3000):
            try:
                mask.allowed([a] * count)
            except ConstraintError:
                return count
        return 3000

    first = length()
    assert length() >= 0.9 * first > 0


def test_the_padded_vocabulary_and_control_tokens_never_come(compiler: GrammarCompiler) -> None:
    table = compiler.compile(specs.regex("(?s).*")).start(SIZE, frozenset({END})).allowed([])
    assert set(np.flatnonzero(~table).tolist()) >= {*range(TOKENIZER.vocabulary_size, SIZE)}
    controls = {256 + 9 + number for number in range(1, len(ADDED))}
    assert not table[sorted(controls)].any() and table[END]


def test_long_texts_without_a_choice_are_quick(compiler: GrammarCompiler) -> None:
    text = "th ink " * 10_000
    mask = compiler.compile(specs.choice([text])).start(SIZE, frozenset({END}))
    tokens = TOKENIZER.encode(text, add_special=False)
    begin = time.process_time()
    for length in range(50):
        assert mask.allowed(tokens[:length])[tokens[length]]
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("text", ["think", "a", " a", "</th", "\n", "é✓ think", "x" * 1000, ""])
def test_forced_texts_become_tokens_of_the_same_bytes(text: str) -> None:
    found = b"".join(map(TOKENIZER.token_bytes, Words(TOKENIZER, SIZE)(text.encode())))
    assert text.encode() == found if len(text) < MAX_FORCED else text.encode().startswith(found) and found


UNIGRAM = unigram(
    ("\u2581", -4.0, 1), *((letter, -5.0, 1) for letter in "abct"), ("\u2581a", -3.0, 1), ("ct", -3.0, 1)
)
DNA = dna([("<dna>", 1), ("</dna>", 1), ("<oov>", 1), ("ACGTAC\ue000", 1), ("<eos>", 3)])


@pytest.mark.parametrize(
    ("tokenizer", "texts_of_it"),
    [(UNIGRAM, ["a cat", "cat", " a", "tact act"]), (DNA, ["<dna>ACGTAC</dna>", "<dna>ACG</dna> a", "AC"])],
    ids=["unigram", "dna"],
)
def test_tokenizers_that_change_texts_keep_to_grammars(tokenizer: Tokenizer, texts_of_it: list[str]) -> None:
    """One puts a space before a text, the other fills up what is left of six bases."""
    size = tokenizer.vocabulary_size
    compiler = GrammarCompiler(tokenizer, size)
    words = Words(tokenizer, size)
    for text in texts_of_it:
        assert b"".join(map(tokenizer.token_bytes, words(text))) == text.encode()
    grammar = compiler.compile(specs.choice(texts_of_it))
    found = {text_of(tokenizer, walk(grammar, tokenizer, size, seed) or []) for seed in range(40)}
    assert found == set(texts_of_it)
    compiler.close()


def test_what_the_first_grammar_waits_for_can_be_done_before(compiler: GrammarCompiler) -> None:
    other = GrammarCompiler(TOKENIZER, SIZE)
    other.prepare()
    assert other.compile(specs.choice(["a"])).spec == specs.choice(["a"])
    other.close()


def test_nothing_else_imports_the_grammars_library() -> None:
    program = (
        "import sys, tplaunch, tplaunch.coordinator.serving.requests, tplaunch.launcher.cli\n"
        "import tplaunch.coordinator.serving.grammar.compiler\n"
        "assert 'llguidance' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
