"""Tokens to text, one at a time, as they are generated.

Knows how UTF-8 characters are spread over tokens; knows no vocabulary.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """The one thing that detokenizing asks of a tokenizer."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""


class NamedTokens(TokenBytes, Protocol):
    """A vocabulary that also has a text for tokens that stand for none."""

    def token_text(self, token: int) -> str:
        """The text by which the vocabulary names a token, such as <|user|>."""


class WithControlTokens:
    """Has control tokens stand for the texts that name them."""

    def __init__(self, tokenizer: NamedTokens) -> None:
        self._tokenizer = tokenizer

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, or else those of its name."""
        return self._tokenizer.token_bytes(token) or self._tokenizer.token_text(token).encode()


class Detokenizer:
    """The text of a continuation, in pieces that never split a character.

    A space that begins the first token is kept, since it parts the continuation from the prompt;
    coordinator.text.tokenizer.decode is for a whole text. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this token completes, "" while a character is unfinished.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """Returns the rest: "", or U+FFFD for a character that never became whole. A new text may follow."""
        return self._decoder.decode(b"", final=True)
