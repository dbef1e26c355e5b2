"""The "llama" kind of tokenizer: SentencePiece byte-pair merging with byte fallback, as llama.cpp does it.

Leaves the merging to the sentencepiece library; knows no files and no special tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sentencepiece

from tplaunch.coordinator.text.sentencepiece_model import Piece, PieceType, serialized_model
from tplaunch.coordinator.text.token_bytes import byte_fallback, spaced_token_bytes
from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import BYTE_TOKEN, TokenizerError, Vocabulary, VocabularyDefaults
from tplaunch.coordinator.text.vocabulary_reader import read_vocabulary
from tplaunch.coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_SPM.
_DEFAULTS = VocabularyDefaults(bos_token_id=1, eos_token_id=2, adds_bos=True, adds_space_prefix=True)

_MAX_PIECE_BYTES = 7999  # sentencepiece refuses models with longer pieces
_PLACEHOLDER = b"<unmatched "

# Which tokens never come out of merging, so that what a user typed can't become a control token.
_NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)


class SentencePieceTokenizer(VocabularyTokenizer):
    """A Tokenizer (see coordinator.text.tokenizer) of kind "llama".

    Follows llama.cpp: each run of text between special tokens gets the space prefix; characters that no token
    covers become byte tokens. One difference: control tokens never come out of merging. Added tokens of older
    files have U+2581 for their spaces, as merging sees them, and stand for spaces here.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        vocabulary = read_vocabulary(metadata, _DEFAULTS)
        super().__init__(metadata, vocabulary, spaced_token_bytes(vocabulary))
        self._fallback = byte_fallback(vocabulary)
        self._processor = _load_processor(vocabulary)

    def tokenize_run(self, text: str) -> Iterator[int]:
        """The tokens of a run of text."""
        # Every run of text starts the prompt or follows a special token, and there llama.cpp puts the prefix.
        prefix = " " if self._vocabulary.adds_space_prefix else ""
        for piece in self._processor.EncodeAsIds(prefix + text):
            yield piece if piece < self.vocabulary_size else self._byte_token(piece - self.vocabulary_size)

    def _byte_token(self, byte: int) -> int:
        token = self._fallback[byte]
        if token is None:
            raise TokenizerError(f"the vocabulary has no token for byte 0x{byte:02X}, nor an unknown token")
        return token


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
        if token_type in _NEVER_MERGED or text in seen or not _can_match(text):
            yield Piece(b"%s%d>" % (_PLACEHOLDER, token), 0.0, PieceType.CONTROL)
        else:
            seen.add(text)
            yield Piece(text, score, PieceType.NORMAL)
    for byte in range(256):
        yield Piece(b"<0x%02X>" % byte, 0.0, PieceType.BYTE)
    yield Piece(b"%sunknown>" % _PLACEHOLDER, 0.0, PieceType.UNKNOWN)


def _can_match(text: bytes) -> bool:
    """Returns true if the library takes a text, and a text to encode could contain it."""
    if not text or b"\0" in text or len(text) > _MAX_PIECE_BYTES:
        return False
    if text.startswith(_PLACEHOLDER) or BYTE_TOKEN.fullmatch(text):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
