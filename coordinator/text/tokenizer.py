"""Text to token ids and back: what a tokenizer does, and which kinds can be built from GGUF metadata.

Knows the kinds by name; how each splits text is its own file's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from tplaunch.coordinator.text.byte_pair_tokenizer import BytePairTokenizer
from tplaunch.coordinator.text.dna_tokenizer import DnaTokenizer
from tplaunch.coordinator.text.sentencepiece_tokenizer import SentencePieceTokenizer
from tplaunch.coordinator.text.unigram_tokenizer import UnigramTokenizer
from tplaunch.coordinator.text.vocabulary import PREFIX, TokenizerError

__all__ = ["Tokenizer", "TokenizerError", "decode", "load_tokenizer"]


class Tokenizer(Protocol):
    """Text to token ids, and each token to the bytes it stands for."""

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; ids are 0 to vocabulary_size - 1."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, where there is one."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, where there is one: the one that templates and encode write."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a generation: end of text, of turn, of message."""

    @property
    def suppressed_token_ids(self) -> frozenset[int]:
        """The tokens that must never be generated."""

    @property
    def adds_bos(self) -> bool:
        """Tells if encode starts with bos_token_id when add_special."""

    @property
    def adds_space_prefix(self) -> bool:
        """Tells if encode puts a space before the text, which decode takes away."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The token ids of a text.

        add_special adds the begin and end tokens that the model asks for. parse_special turns the texts of
        control tokens, such as <|user|>, into those tokens: for chat templates, never for what a user typed.
        Raises TokenizerError when the vocabulary has no way to write a character; byte-level vocabularies
        leave it out instead.
        """

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 that a token stands for, perhaps part of a character; b"" for control tokens.

        Raises TokenizerError for an id outside the vocabulary.
        """

    def token_text(self, token: int) -> str:
        """The text by which a vocabulary names a token, also one that stands for no text, such as <|user|>.

        Raises TokenizerError for an id outside the vocabulary.
        """


# tokenizer.ggml.model -> what builds it. A new kind is a class with __init__(metadata) and a row here.
_KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "llama": SentencePieceTokenizer,
    "gpt2": BytePairTokenizer,
    "gemma4": BytePairTokenizer,
    "hybriddna": DnaTokenizer,
    "t5": UnigramTokenizer,
}


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata (key -> scalar, list or array) describes.

    Raises TokenizerError when the metadata holds none, one of an unsupported kind, or a damaged one. The
    model can still be used with token ids.
    """
    kind = metadata.get(PREFIX + "model", "none")
    if not isinstance(kind, str):
        raise TokenizerError(f"{PREFIX}model is of type {type(kind).__name__}, not the name of a tokenizer")
    if kind in {"none", "no_vocab"}:
        raise TokenizerError("the model file holds no tokenizer; give the prompt as token ids with --tokens")
    if kind not in _KINDS:
        raise TokenizerError(
            f"the model file's tokenizer is of kind {kind!r:.40}, and only {', '.join(map(repr, _KINDS))} "
            "are supported; --tokens takes the prompt as token ids with any tokenizer"
        )
    return _KINDS[kind](metadata)


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of tokens that stand for a whole text, without the space that encode puts before it.

    Bytes that are not UTF-8 become U+FFFD. For tokens that continue a text use Detokenizer, which keeps
    the space. Raises TokenizerError for an id outside the vocabulary.
    """
    text = b"".join(map(tokenizer.token_bytes, tokens))
    if tokenizer.adds_space_prefix:
        text = text.removeprefix(b" ")
    return text.decode("utf-8", "replace")
