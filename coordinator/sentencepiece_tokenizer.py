"""The "llama" kind of tokenizer: SentencePiece byte-pair merging with byte fallback, as llama.cpp does it.

Cuts special tokens out of the text and leaves the merging to the sentencepiece library; knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sentencepiece

from coordinator.sentencepiece_model import Piece, PieceType, serialized_model
from coordinator.vocabulary import (
    BYTE_TOKEN,
    PREFIX,
    TokenizerError,
    TokenType,
    Vocabulary,
    VocabularyDefaults,
    read_vocabulary,
)

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_SPM.
_DEFAULTS = VocabularyDefaults(bos_token_id=1, eos_token_id=2, adds_bos=True, adds_space_prefix=True)

_SPACE_SYMBOL = "\u2581".encode()
_MAX_PIECE_BYTES = 7999  # sentencepiece refuses models with longer pieces
_PLACEHOLDER = b"<unmatched "
_ASCII_SPACES = " \t\n\v\f\r"

# Which tokens take part in merging, and as what.
_PIECE_TYPES = {
    TokenType.NORMAL: PieceType.NORMAL,
    TokenType.USER_DEFINED: PieceType.NORMAL,  # older files write its spaces as U+2581, as merging sees them
    TokenType.UNUSED: PieceType.UNUSED,
    TokenType.UNDEFINED: PieceType.UNUSED,
}


class _Marker(NamedTuple):
    """A token that is found in the text as a whole, before any merging."""

    text: str
    token: int
    is_special: bool  # found only on request
    strips_right: bool  # swallows the spaces that follow it


class SentencePieceTokenizer:
    """A Tokenizer (see coordinator.tokenizer) of kind "llama".

    Follows llama.cpp: user-defined tokens are found first, the longest first; each run of text between them
    gets the space prefix; characters that no token covers become byte tokens. Two differences: control
    tokens never come out of merging, so that what a user typed can't become one, and what merges into a
    token marked as unused is taken apart again. Text is used as it is, but a lone surrogate becomes U+FFFD.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        if len(_charsmap(metadata)):
            raise TokenizerError(
                f"{PREFIX}precompiled_charsmap asks for text normalisation, which is not supported "
                "with a tokenizer of kind 'llama'; give the prompt as token ids with --tokens"
            )
        self._vocabulary = read_vocabulary(metadata, _DEFAULTS)
        self._bytes = _token_bytes(self._vocabulary)
        self._markers = _markers(self._vocabulary, _strips_after_special(metadata))
        self._fallback = _byte_fallback(self._vocabulary)
        self._processor = _load_processor(self._vocabulary)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._bytes)

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, where there is one."""
        return self._vocabulary.bos_token_id

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._vocabulary.eos_token_ids

    @property
    def adds_bos(self) -> bool:
        """Whether encode starts with bos_token_id."""
        return self._vocabulary.adds_bos

    @property
    def adds_space_prefix(self) -> bool:
        """Whether encode puts a space before the text."""
        return self._vocabulary.adds_space_prefix

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 (perhaps part of a character) that a token stands for, b"" for a control token."""
        if not 0 <= token < len(self._bytes):
            raise TokenizerError(f"token {token} is outside the vocabulary of {len(self._bytes)} tokens")
        return self._bytes[token]

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The tokens of a text; see the Tokenizer protocol."""
        tokens: list[int] = []
        if add_special and self._vocabulary.adds_bos:
            assert self._vocabulary.bos_token_id is not None
            tokens.append(self._vocabulary.bos_token_id)
        for fragment in self._fragments(_without_surrogates(text), parse_special):
            if isinstance(fragment, int):
                tokens.append(fragment)
            else:
                tokens.extend(self._merge(fragment))
        if add_special and self._vocabulary.adds_eos:
            assert self._vocabulary.eos_token_id is not None
            tokens.append(self._vocabulary.eos_token_id)
        return tokens

    def _fragments(self, text: str, parse_special: bool) -> list[str | int]:
        """The text cut at its markers: runs of text, never two in a row, and token ids."""
        fragments: list[str | int] = [text] if text else []
        for marker in self._markers:
            if marker.text in text and (parse_special or not marker.is_special):
                fragments = [part for fragment in fragments for part in _cut(fragment, marker)]
        return fragments

    def _merge(self, text: str) -> Iterator[int]:
        if self._vocabulary.removes_extra_spaces:
            text = re.sub(" +", " ", text).strip(" ")
        # Every run of text starts the prompt or follows a special token, and there llama.cpp puts the prefix.
        prefix = " " if text and self._vocabulary.adds_space_prefix else ""
        size = len(self._bytes)
        for piece in self._processor.EncodeAsIds(prefix + text):
            yield piece if piece < size else self._byte_token(piece - size)

    def _byte_token(self, byte: int) -> int:
        token = self._fallback[byte]
        if token is None:
            raise TokenizerError(f"the vocabulary has no token for byte 0x{byte:02X}, nor an unknown token")
        return token


def _charsmap(metadata: Mapping[str, Any]) -> Any:
    charsmap = metadata.get(PREFIX + "precompiled_charsmap")
    return charsmap if hasattr(charsmap, "__len__") else ()


def _strips_after_special(metadata: Mapping[str, Any]) -> bool:
    """Phi-3's special tokens swallow what spaces follow; as in llama.cpp, only its name tells."""
    name = str(metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _without_surrogates(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _cut(fragment: str | int, marker: _Marker) -> list[str | int]:
    """A run of text with every occurrence of the marker replaced by its token; empty runs are dropped."""
    if isinstance(fragment, int):
        return [fragment]
    first, *rest = fragment.split(marker.text)
    parts: list[str | int] = [first]
    for part in rest:
        parts += [marker.token, part.lstrip(_ASCII_SPACES) if marker.strips_right else part]
    return [part for part in parts if part != ""]


def _markers(vocabulary: Vocabulary, strips_right: bool) -> list[_Marker]:
    """What is found as a whole, the longest text first."""
    markers = []
    for token in vocabulary.ids_of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
        text = _decoded(vocabulary.texts[token])
        if text:
            is_special = vocabulary.types[token] != TokenType.USER_DEFINED
            strips = strips_right and text not in {"<unk>", "<s>", "<|endoftext|>"}
            markers.append(_Marker(text, token, bool(is_special), strips))
    return sorted(markers, key=lambda marker: -len(marker.text.encode()))


def _token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """What each token stands for, by id."""
    stands_for = [text.replace(_SPACE_SYMBOL, b" ") for text in vocabulary.texts]
    for token in vocabulary.ids_of_type(TokenType.CONTROL, TokenType.UNKNOWN):
        stands_for[token] = b""
    for token in vocabulary.ids_of_type(TokenType.BYTE):
        stands_for[token] = bytes([vocabulary.byte_of(token)])
    return stands_for


def _byte_fallback(vocabulary: Vocabulary) -> list[int | None]:
    """For each of the 256 bytes its token: a byte token, a token of one character, or the unknown token."""
    fallback = [vocabulary.unknown_token_id] * 256
    for token in reversed(vocabulary.ids_of_type(TokenType.NORMAL)):
        if len(vocabulary.texts[token]) == 1:
            fallback[vocabulary.texts[token][0]] = token
    for token in reversed(vocabulary.ids_of_type(TokenType.BYTE)):
        fallback[vocabulary.byte_of(token)] = token
    return fallback


def _load_processor(vocabulary: Vocabulary) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(serialized_model(_pieces(vocabulary)))
    except RuntimeError as error:
        raise TokenizerError(f"the sentencepiece library refuses this vocabulary: {error}") from error
    return processor


def _pieces(vocabulary: Vocabulary) -> Iterator[Piece]:
    """The vocabulary as the library accepts it: every id in place, then 256 bytes, then one unknown piece.

    The library insists on unique texts, one unknown piece and all bytes or none, which real vocabularies
    break. So a token that must never match is a placeholder, and the bytes are ids past the end.
    """
    seen: set[bytes] = set()
    columns = zip(vocabulary.texts, vocabulary.scores.tolist(), vocabulary.types.tolist())
    for token, (text, score, token_type) in enumerate(columns):
        piece_type = _PIECE_TYPES.get(token_type, PieceType.CONTROL)
        if piece_type == PieceType.CONTROL or text in seen or not _can_match(text):
            yield Piece(b"%s%d>" % (_PLACEHOLDER, token), 0.0, PieceType.CONTROL)
        else:
            seen.add(text)
            yield Piece(text, score, piece_type)
    for byte in range(256):
        yield Piece(b"<0x%02X>" % byte, 0.0, PieceType.BYTE)
    yield Piece(b"%sunknown>" % _PLACEHOLDER, 0.0, PieceType.UNKNOWN)


def _can_match(text: bytes) -> bool:
    """Whether the library takes a text, and text could contain it."""
    if not text or b"\0" in text or len(text) > _MAX_PIECE_BYTES:
        return False
    if text.startswith(_PLACEHOLDER) or BYTE_TOKEN.fullmatch(text):
        return False
    return _decoded(text) is not None


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
