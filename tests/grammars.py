"""Small tokenizers and random walks, for tests of grammars."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.vocabularies import CONTROL, byte_level_metadata
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer

JOINS = [
    ("t", "h"),
    ("n", "k"),
    ("th", "i"),
    ("thi", "nk"),
    ("<", "/"),
    ('"', ":"),
    ("{", '"'),
    ("}", "}"),
    (">", "{"),
]
ADDED = [("<eos>", CONTROL), ("<|tool|>", CONTROL), ("<think>", CONTROL), ("</think>", CONTROL)]


def small_tokenizer(
    added: Sequence[tuple[str, int]] = ADDED, joins: Sequence[tuple[str, str]] = JOINS, **keys: Any
) -> Tokenizer:
    """All bytes, some longer tokens, and control tokens, the first of which ends texts."""
    first = 256 + len(joins)
    return load_tokenizer(byte_level_metadata(joins, added, eos_token_id=first, **keys))


def text_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text of tokens, with the names of control tokens."""
    shown = (tokenizer.token_bytes(token) or tokenizer.token_text(token).encode() for token in tokens)
    return b"".join(shown).decode()


def walk(
    constraint: Constraint, tokenizer: Tokenizer, size: int, seed: int, most: int = 400, eager: float = 0.5
) -> list[int] | None:
    """Tokens that are drawn among the allowed ones, None where they come to no end.

    eager: how often an end is taken where there may be one. Short tokens are drawn as often as long ones of
    many bytes, so that numbers and texts end.
    """
    ends = tokenizer.eos_token_ids
    mask, numbers = constraint.start(size, ends), random.Random(seed)
    generated: list[int] = []
    while len(generated) < most:
        table = mask.allowed(generated)
        tokens = np.arange(size) if table is None else np.flatnonzero(table)
        assert tokens.size, text_of(tokenizer, generated)
        may_end = bool(ends.intersection(tokens.tolist()))
        others = [token for token in tokens.tolist() if token not in ends]
        if may_end and (not others or numbers.random() < eager):
            return generated
        closing = [token for token in others if tokenizer.token_bytes(token)[-1:] in (b'"', b"]", b"}", b",")]
        generated.append(numbers.choice(closing if closing and numbers.random() < 0.4 else others))
    return None
