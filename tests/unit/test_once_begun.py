"""A grammar holds wherever a text begins it, whatever tokens the marker is written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.grammars import small_tokenizer
from tests.vocabularies import CONTROL
from tplaunch.coordinator.serving.grammar import spec
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.once_begun import Marker, OnceBegun
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError

pytestmark = pytest.mark.unit

# Tokens of >{ and >a, which end the marker and go on, and of x<f>a, which holds it.
JOINS = [(">", "{"), (">", "a"), ("x", "<"), ("x<", "f"), ("x<f", ">a"), (" ", "{"), ("{", "1")]
TOKENIZER = small_tokenizer([("<eos>", CONTROL), ("<|tool|>", CONTROL)], JOINS)
SIZE = TOKENIZER.vocabulary_size
EVERYTHING = set(range(SIZE))
(END,) = TOKENIZER.eos_token_ids


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special=False, parse_special=True)


def token(text: str) -> int:
    return next(one for one in range(SIZE) if TOKENIZER.token_bytes(one) == text.encode())


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(TOKENIZER)
    yield made
    made.close()


def allowed(made: OnceBegun, generated: Sequence[int]) -> set[int]:
    table = made.start(SIZE, frozenset({END})).allowed(generated)
    return EVERYTHING if table is None else set(np.flatnonzero(table).tolist())


def test_the_grammar_holds_behind_a_marker_until_it_may_end(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(spec.lark('start: "<f>{" /[0-9]/ "}"'))
    made = OnceBegun(grammar, compiler.words, [Marker("<f>", 3)])
    within = token("x<f>a")
    assert allowed(made, []) == allowed(made, [*b"a <g> b"]) == EVERYTHING - {within}
    for marker in ([*b"<f>"], [token("x<f"), ord(">")]):
        assert allowed(made, marker) == {ord("{"), token("{1")}
        assert allowed(made, [*marker, ord("{")]) == set(b"0123456789")
        assert allowed(made, [*marker, *b"{7"]) == {ord("}")}
        assert allowed(made, [*marker, *b"{7}"]) == EVERYTHING - {within}
        assert allowed(made, [*marker, *b"{7} and <f>{"]) == set(b"0123456789")


def test_a_token_that_ends_a_marker_and_leaves_the_grammar_is_ruled_out(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(spec.lark('start: "<f>{" /[0-9]/ "}"'))
    made = OnceBegun(grammar, compiler.words, [Marker("<f>", 3)])
    before = [*b"<f"]
    assert token(">a") not in allowed(made, before) and token(">{") in allowed(made, before)
    assert allowed(made, [*before, token(">{")]) == set(b"0123456789")
    assert token(">a") in allowed(made, [*b"<g"])


def test_a_control_token_is_a_marker_by_its_name(compiler: GrammarCompiler) -> None:
    (call,) = ids("<|tool|>")
    grammar = compiler.compile(spec.lark(f'start: <[{call}]> "a"'))
    made = OnceBegun(grammar, compiler.words, [Marker("<|tool|>", 8)])
    assert allowed(made, [ord("b"), call]) == {ord("a")}
    assert allowed(made, [*b"<|tool|>"]) == {ord("a")}  # readers take it for the token
    assert allowed(made, [call, ord("a")]) == EVERYTHING


def test_the_grammar_may_begin_without_a_marker_where_nothing_stands_before_it(
    compiler: GrammarCompiler,
) -> None:
    grammar = compiler.compile(spec.regex("[{][0-9][}]"))
    made = OnceBegun(grammar, compiler.words, [], "{")
    start = EVERYTHING - {token(" {")}
    assert allowed(made, []) == allowed(made, [*b" \n"]) == start
    assert allowed(made, [*b"\n{"]) == set(b"0123456789")
    assert allowed(made, [token("{1")]) == {ord("}")}
    assert allowed(made, [*b"a {"]) == EVERYTHING
    assert allowed(made, [*b"{1}"]) == start and allowed(made, [*b"{1}{"]) == set(b"0123456789")


def test_what_stands_before_the_text_may_be_a_markers_start(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(spec.lark('start: "to=" /[a-b]/'))
    made = OnceBegun(grammar, compiler.words, [Marker("<s> to=", 3)], before="<s>")
    assert allowed(made, [*b" to="]) == set(b"ab")
    assert allowed(made, [*b"I go to="]) == EVERYTHING
    with pytest.raises(ConstraintError):
        allowed(made, [*b" to=c"])


def test_a_text_may_be_computed_again(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(spec.lark('start: "<f>{" /[0-9]/ "}"'))
    mask = OnceBegun(grammar, compiler.words, [Marker("<f>", 3)]).start(SIZE, frozenset({END}))
    texts = [[*b"<f>{7}b"][:count] for count in (7, 4, 6, 3, 5)]
    for generated in texts:
        again = OnceBegun(grammar, compiler.words, [Marker("<f>", 3)]).start(SIZE, frozenset({END}))
        one, other = mask.allowed(generated), again.allowed(generated)
        if one is None or other is None:
            assert one is other
        else:
            assert np.array_equal(one, other)
