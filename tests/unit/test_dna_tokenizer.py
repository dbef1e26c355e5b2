"""The "hybriddna" kind of tokenizer on a small made-up vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vocabularies import CONTROL, FIRST, NORMAL, byte_level_metadata
from tplaunch.coordinator.text.tokenizer import Tokenizer, decode, load_tokenizer

SPECIAL = [("<dna>", NORMAL), ("</dna>", NORMAL), ("<oov>", NORMAL)]
KMERS = [(kmer + "\ue000", NORMAL) for kmer in ("ACGTAC", "GGGAAA", "AAAAAA")]
WORD = FIRST  # of bases that are a word outside of <dna>
BEGIN, END, OTHER, ACGTAC, GGGAAA, AAAAAA = range(FIRST + 1, FIRST + 7)


def load(added: list[tuple[str, int]], **keys: Any) -> Tokenizer:
    return load_tokenizer(byte_level_metadata([("A", "C")], added, model="hybriddna", pre="bloom", **keys))


def of_bytes(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("AC<dna>ACGTAC</dna>AC", [WORD, BEGIN, ACGTAC, END, WORD]),
        ("<dna>acgtacggg</dna>", [BEGIN, ACGTAC, GGGAAA, END]),  # lower case; filled up
        ("<dna>NNNNNNaé</dna>", [BEGIN, OTHER, OTHER, END]),
        ("<dna></dna><dna>GGGAAAa", [BEGIN, END, BEGIN, GGGAAA, AAAAAA]),  # the last one has no end
        ("<dna>\nGGGAAA<dna></dna>", [BEGIN, OTHER, OTHER, END]),  # only </dna> ends it
        ("<dna>GGGAAA\n", [BEGIN, GGGAAA, OTHER]),
        ("</dna>x", of_bytes("</dna>x")),
        ("", []),
    ],
)
def test_six_bases_are_a_token_between_the_marks(text: str, tokens: list[int]) -> None:
    assert load(SPECIAL + KMERS).encode(text) == tokens


def test_the_mark_of_bases_is_no_part_of_their_text() -> None:
    tokenizer = load([("early\ue000", NORMAL), *SPECIAL, *KMERS])
    assert tokenizer.token_bytes(FIRST + 1) == "early\ue000".encode()  # it comes before <oov>
    assert decode(tokenizer, [FIRST + 1 + len(SPECIAL) + 1]) == "ACGTAC"


def test_without_its_tokens_dna_is_text() -> None:
    assert load(SPECIAL[:2] + KMERS).encode("<dna>AC") == [*of_bytes("<dna>"), WORD]


def test_marks_that_are_control_tokens_are_found_first_on_request() -> None:
    tokenizer = load([*((text, CONTROL) for text, _ in SPECIAL), *KMERS])
    assert tokenizer.encode("<dna>ACGTAC</dna>") == [BEGIN, ACGTAC, END]
    # As in llama.cpp, where the mark is then no part of the run.
    assert tokenizer.encode("<dna>AC", parse_special=True) == [BEGIN, WORD]


@given(st.text("ACGTacgt<>/dn é\n") | st.sampled_from(["<dna>", "</dna>"]))
def test_any_text_has_tokens(text: str) -> None:
    tokenizer = load(SPECIAL + KMERS)
    assert all(tokenizer.token_bytes(token) for token in tokenizer.encode(text))
