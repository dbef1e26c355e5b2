"""A grammar begins behind the reasoning, and the reasoning ends with its budget."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.grammars import JOINS, small_tokenizer, text_of
from tests.vocabularies import CONTROL
from tplaunch.coordinator.serving.grammar import spec as specs
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.reasoning import (
    AfterReasoning,
    AllOf,
    Markers,
    Reasoning,
    ReasoningBudget,
)
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError, TokenMask
from tplaunch.coordinator.text.tokenizer import Tokenizer

pytestmark = pytest.mark.unit

NAMED = small_tokenizer()  # <think> and </think> are control tokens
SPELLED = small_tokenizer([("<eos>", CONTROL)])  # they are texts like others, of several tokens
SIZE = 300
LINE_END = ord("\n")
(END,) = NAMED.eos_token_ids
TOKENIZERS = pytest.mark.parametrize("tokenizer", [NAMED, SPELLED], ids=["named", "spelled"])
OPEN, SHUT = Markers("<think>", "</think>", True), Markers("<think>", "</think>", False)


@pytest.fixture(scope="module")
def compilers() -> Iterator[dict[int, GrammarCompiler]]:
    made = {id(tokenizer): GrammarCompiler(tokenizer, SIZE) for tokenizer in (NAMED, SPELLED)}
    yield made
    for compiler in made.values():
        compiler.close()


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False, parse_special=True)


def allowed(mask: TokenMask, generated: list[int]) -> set[int] | None:
    table = mask.allowed(generated)
    return None if table is None else set(np.flatnonzero(table).tolist())


@TOKENIZERS
@pytest.mark.parametrize("starts_open", [True, False])
def test_markers_are_found_wherever_tokens_cut_them(tokenizer: Tokenizer, starts_open: bool) -> None:
    text = ("" if starts_open else " \n<think>") + "a < b </ </thin <think> </think>{}"
    singly = [token for character in text for token in tokenizer.encode(character, add_special=False)]
    for generated in (singly, ids(tokenizer, text)):
        reasoning = Reasoning(tokenizer, Markers("<think>", "</think>", starts_open))
        for length in range(len(generated) + 1):
            reasoning.follow(generated[:length])
            shown = text_of(tokenizer, generated[:length])
            assert reasoning.is_over == ("</think>" in shown)
            assert reasoning.is_open == ((starts_open or "<think>" in shown) and not reasoning.is_over)
        answer = reasoning.rest.decode() + text_of(tokenizer, generated[reasoning.first :])
        assert answer == "{}"
        reasoning.follow(generated[:3])  # fewer tokens, as where a text is computed again
        assert not reasoning.is_over


def test_no_reasoning_is_an_answer_from_its_first_token() -> None:
    reasoning = Reasoning(NAMED, SHUT)
    reasoning.follow(ids(NAMED, "<thorough"))
    assert reasoning.is_over and reasoning.first == 0 and not reasoning.rest


@TOKENIZERS
def test_a_grammar_begins_behind_open_reasoning(
    compilers: dict[int, GrammarCompiler], tokenizer: Tokenizer
) -> None:
    grammar = compilers[id(tokenizer)].compile(specs.choice(["{ab", "}c"]))
    mask = AfterReasoning(grammar, OPEN, tokenizer).start(SIZE, frozenset({END}))
    thought = ids(tokenizer, "b </think")
    for length in range(len(thought)):
        assert allowed(mask, thought[:length]) == set(range(SIZE)) - {END}
    closed = ids(tokenizer, "b </think>")
    assert allowed(mask, closed) == {ord("{"), ord("}"), LINE_END}
    assert allowed(mask, [*closed, ord("}")]) == {ord("c")}
    assert allowed(mask, [*closed, *b"}c"]) == {END}
    with pytest.raises(ConstraintError):
        mask.allowed([*closed, ord("c")])


def test_a_blank_line_may_stand_between_reasoning_and_a_grammar() -> None:
    """Models write one; readers leave it out. One token may stand for both line ends."""
    tokenizer = small_tokenizer(joins=[*JOINS, ("\n", "\n")])
    (both,) = ids(tokenizer, "\n\n")
    (end,) = tokenizer.eos_token_ids
    compiler = GrammarCompiler(tokenizer, SIZE)
    try:
        grammar = compiler.compile(specs.choice(["{ab", "\n"]))
        mask = AfterReasoning(grammar, OPEN, tokenizer).start(SIZE, frozenset({end}))
        closed = ids(tokenizer, "b</think>")
        assert allowed(mask, closed) == {ord("{"), LINE_END, both}
        assert allowed(mask, [*closed, LINE_END]) == {ord("{"), LINE_END}
        assert allowed(mask, [*closed, LINE_END, ord("{")]) == {ord("a")}
        for lines in ([both], [LINE_END, LINE_END]):
            assert allowed(mask, [*closed, *lines]) == {ord("{"), LINE_END}  # the grammar's own
            assert allowed(mask, [*closed, *lines, ord("{")]) == {ord("a")}
        none = AfterReasoning(grammar, SHUT, tokenizer).start(SIZE, frozenset({end}))
        assert end in (
            allowed(none, [LINE_END]) or ()
        )  # where nothing was thought, the grammar has every token
    finally:
        compiler.close()


def test_tokens_may_be_forbidden_within_reasoning() -> None:
    """A call's marker would end it for the reader, and the grammar would not have begun."""
    budget = ReasoningBudget(9**9, OPEN, NAMED)
    mask = AfterReasoning(budget, OPEN, NAMED, frozenset({7, SIZE})).start(SIZE, frozenset({END}))
    assert allowed(mask, []) == set(range(SIZE)) - {7}
    assert allowed(mask, ids(NAMED, "</think>")) is None


def test_what_the_last_token_of_the_marker_brings_counts(compilers: dict[int, GrammarCompiler]) -> None:
    """The small vocabulary has a token of >{."""
    grammar = compilers[id(SPELLED)].compile(specs.choice(["{ab", "}c"]))
    mask = AfterReasoning(grammar, OPEN, SPELLED).start(SIZE, frozenset({END}))
    (last,) = SPELLED.encode(">{", add_special=False)
    assert allowed(mask, [*SPELLED.encode("</think", add_special=False), last]) == {ord("a")}


@TOKENIZERS
def test_a_text_may_reason_or_answer_at_once(
    compilers: dict[int, GrammarCompiler], tokenizer: Tokenizer
) -> None:
    grammar = compilers[id(tokenizer)].compile(specs.choice(["{ab", "<tc"]))
    mask = AfterReasoning(grammar, SHUT, tokenizer).start(SIZE, frozenset({END}))
    begin = ids(tokenizer, "<think>")
    assert allowed(mask, []) == {ord("{"), ord("<"), begin[0]}
    assert allowed(mask, [ord("{")]) == {ord("a")}
    rest = tokenizer.encode("think>", add_special=False)[0]
    assert allowed(mask, [ord("<")]) == {ord("t"), rest}
    assert allowed(mask, [ord("<"), ord("t")]) == {ord("c"), tokenizer.encode("hink>", add_special=False)[0]}
    assert allowed(mask, [*begin[:-1], *begin[-1:]]) == set(range(SIZE)) - {END}
    assert allowed(mask, [*begin, *ids(tokenizer, "a</think>")]) == {ord("{"), ord("<"), LINE_END}
    for length in range(1, len(begin)):
        assert begin[length] in (allowed(mask, begin[:length]) or ())


@TOKENIZERS
@pytest.mark.parametrize("closing", ["", " Enough.</think>\n"])
@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("markers", [OPEN, SHUT])
def test_a_budget_ends_the_reasoning(
    tokenizer: Tokenizer, closing: str, max_tokens: int, markers: Markers
) -> None:
    mask = ReasoningBudget(max_tokens, markers, tokenizer, closing).start(SIZE, frozenset({END}))
    generated = [] if markers.starts_open else ids(tokenizer, "<think>")
    for token in [ord("x")] * max_tokens:
        assert mask.allowed(generated) is None
        generated.append(token)
    for token in ids(tokenizer, (closing or "</think>").removesuffix("\n")):
        assert allowed(mask, generated) == {token}
        generated.append(token)
    assert mask.allowed(generated) is None and mask.allowed([*generated, 5, 6]) is None


def test_long_reasoning_costs_no_more_for_each_token() -> None:
    generated = [ord("x")] * 200_000
    both = AllOf([AfterReasoning(ReasoningBudget(9**9, OPEN, NAMED), OPEN, NAMED)] * 3)
    mask = both.start(SIZE, frozenset({END}))
    mask.allowed(generated)
    begin = time.process_time()
    for _ in range(500):
        generated.append(ord("y"))
        assert mask.allowed(generated) is None
    assert time.process_time() - begin < 1


def test_a_budget_leaves_answers_and_short_reasoning_alone() -> None:
    mask = ReasoningBudget(3, SHUT, NAMED).start(SIZE, frozenset({END}))
    assert mask.allowed([5] * 20) is None
    mask = ReasoningBudget(3, OPEN, NAMED).start(SIZE, frozenset({END}))
    assert mask.allowed([5, *ids(NAMED, "</think>"), *[6] * 20]) is None


@TOKENIZERS
def test_a_budget_and_a_grammar_go_together(
    compilers: dict[int, GrammarCompiler], tokenizer: Tokenizer
) -> None:
    grammar = compilers[id(tokenizer)].compile(specs.regex("[0-9]"))
    both = AllOf([AfterReasoning(grammar, OPEN, tokenizer), ReasoningBudget(1, OPEN, tokenizer)])
    assert both.needs_end and not AllOf([ReasoningBudget(1, OPEN, tokenizer)]).needs_end
    mask = both.start(SIZE, frozenset({END}))
    generated = [ord("x")]
    assert allowed(mask, []) == set(range(SIZE)) - {END}
    for token in ids(tokenizer, "</think>"):
        assert allowed(mask, generated) == {token}
        generated.append(token)
    assert allowed(mask, generated) == set(b"0123456789\n")
    assert allowed(mask, [*generated, ord("7")]) == {END}


def test_reasoning_needs_markers_and_a_budget_that_can_be() -> None:
    for begin, end, starts_open in (("<think>", "", True), ("", "</think>", False)):
        with pytest.raises(ValueError, match="reasoning needs"):
            Markers(begin, end, starts_open)
    with pytest.raises(ValueError, match="0 tokens or more, not -1"):
        ReasoningBudget(-1, OPEN, NAMED)
    with pytest.raises(ValueError, match="lacks its end, '</think>'"):
        ReasoningBudget(1, OPEN, NAMED, "Enough.")
