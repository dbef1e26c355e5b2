"""The vocabulary of a tokenizer: token texts, scores, types and special ids.

Knows neither where it comes from (vocabulary_reader.py does) nor a way of splitting text into tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.text.token_type import TokenType

PREFIX = "tokenizer.ggml."

BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class TokenizerError(ValueError):
    """The tokenizer can't be built or used; the message says why in one sentence."""


@dataclass(frozen=True)
class VocabularyDefaults:
    """The facts that a kind of tokenizer assumes where the metadata is silent."""

    bos_token_id: int | None = None
    eos_token_id: int | None = None
    unknown_token_id: int | None = None
    adds_bos: bool = False
    adds_eos: bool = False
    adds_space_prefix: bool = False
    names_bytes: bool = True  # a token whose text is <0xHH> is that byte, whatever its type


@dataclass(frozen=True)
class Vocabulary:
    """Token texts and what is special about them; the id of a token is its place.

    scores is float32 [size], higher merges first; types is int64 [size], values of TokenType. Every id is
    within the vocabulary, and adds_bos and adds_eos imply that there is such a token.
    """

    texts: tuple[bytes, ...]
    scores: npt.NDArray[Any]
    types: npt.NDArray[Any]
    bos_token_id: int | None
    eos_token_id: int | None
    unknown_token_id: int | None
    eos_token_ids: frozenset[int]  # eos, end of turn, end of message: what ends a generation
    suppressed_token_ids: frozenset[int]  # what is never to be generated
    adds_bos: bool
    adds_eos: bool
    adds_space_prefix: bool
    removes_extra_spaces: bool

    def __post_init__(self) -> None:
        assert self.texts and self.scores.shape == self.types.shape == (len(self.texts),)
        assert self.bos_token_id is not None or not self.adds_bos
        assert self.eos_token_id is not None or not self.adds_eos

    def ids_of_type(self, *types: TokenType) -> list[int]:
        """The ids of all tokens of the given types, in order."""
        ids: list[int] = np.flatnonzero(np.isin(self.types, types)).tolist()
        return ids

    def decoded(self, token: int) -> str | None:
        """A token's text; None where it is not UTF-8."""
        try:
            return self.texts[token].decode()
        except UnicodeDecodeError:
            return None

    def byte_of(self, token: int) -> int:
        """The byte, 0 to 255, that a token of type BYTE stands for; TokenizerError if its text names none."""
        match = BYTE_TOKEN.fullmatch(self.texts[token])
        if match is None:
            text = self.texts[token].decode(errors="replace")
            raise TokenizerError(f"token {token} is a byte token but its text is {text!r:.40}, not <0xHH>")
        return int(match[1], 16)
