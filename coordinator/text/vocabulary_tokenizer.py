"""The parts that all kinds of tokenizer share: special tokens, begin and end, bytes, the vocabulary's facts.

How a run of text between special tokens becomes tokens is each kind's own business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from tplaunch.coordinator.text.markers import MarkerCutter
from tplaunch.coordinator.text.special_tokens import find_markers
from tplaunch.coordinator.text.vocabulary import TokenizerError, Vocabulary


def without_surrogates(text: str) -> str:
    """Returns a text with U+FFFD in place of halves of characters; most texts have none, which is quick."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


class VocabularyTokenizer(ABC):
    """A Tokenizer (see coordinator.text.tokenizer) but for tokenize_run.

    Follows llama.cpp: special tokens are found first, the longest first, and each run of text between them
    becomes tokens by itself. Text is used as it is, but a lone surrogate becomes U+FFFD.
    """

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary, token_bytes: list[bytes]) -> None:
        """token_bytes: what each token stands for, by id. Raises TokenizerError."""
        self._vocabulary = vocabulary
        self._bytes = token_bytes
        markers = find_markers(vocabulary, metadata)
        self._every_marker = MarkerCutter(markers)
        self._plain_markers = MarkerCutter([marker for marker in markers if not marker.is_special])

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._bytes)

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, where there is one."""
        return self._vocabulary.bos_token_id

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, where there is one."""
        return self._vocabulary.eos_token_id

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._vocabulary.eos_token_ids

    @property
    def suppressed_token_ids(self) -> frozenset[int]:
        """The tokens that must never be generated."""
        return self._vocabulary.suppressed_token_ids

    @property
    def adds_bos(self) -> bool:
        """Tells if encode starts with bos_token_id."""
        return self._vocabulary.adds_bos

    @property
    def adds_space_prefix(self) -> bool:
        """Tells if encode puts a space before the text."""
        return self._vocabulary.adds_space_prefix

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 (perhaps part of a character) that a token stands for, b"" for a control token."""
        self._check(token)
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        """The text by which the vocabulary names a token; bytes of it that are not UTF-8 become U+FFFD."""
        self._check(token)
        return self._vocabulary.texts[token].decode("utf-8", "replace")

    def _check(self, token: int) -> None:
        if not 0 <= token < len(self._bytes):
            raise TokenizerError(f"token {token} is outside the vocabulary of {len(self._bytes)} tokens")

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The tokens of a text; see the Tokenizer protocol."""
        tokens: list[int] = []
        if add_special and self._vocabulary.adds_bos:
            assert self._vocabulary.bos_token_id is not None
            tokens.append(self._vocabulary.bos_token_id)
        text = without_surrogates(text)
        for fragment in (self._every_marker if parse_special else self._plain_markers).cut(text):
            if isinstance(fragment, int):
                tokens.append(fragment)
            else:
                tokens.extend(self.tokenize_run(fragment))
        if add_special and self._vocabulary.adds_eos:
            assert self._vocabulary.eos_token_id is not None
            tokens.append(self._vocabulary.eos_token_id)
        return tokens

    @abstractmethod
    def tokenize_run(self, text: str) -> Iterable[int]:
        """The tokens of a run of text that holds no special token; it is not empty. Raises TokenizerError."""
