"""Hands vocabularies to the sentencepiece library, in the form that it accepts.

Knows what the library insists on; knows no metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import sentencepiece

from coordinator.text.sentencepiece_model import Normalizer, Piece, PieceType, serialized_model
from coordinator.text.vocabulary import BYTE_TOKEN, TokenizerError, TokenType, Vocabulary

_MAX_PIECE_BYTES = 7999  # the library refuses models with longer pieces
_PLACEHOLDER = b"<unmatched "


def pieces(
    vocabulary: Vocabulary, types: Mapping[TokenType, PieceType], *, has_bytes: bool
) -> Iterator[Piece]:
    """The vocabulary as the library accepts it: every id in place, then 256 bytes if asked for, then unknown.

    The library insists on unique texts, one unknown piece and all bytes or none, which real vocabularies
    break. So a token that must never match is a placeholder, and bytes and unknown are ids past the end.
    types: which tokens can match, and as what.
    """
    seen: set[bytes] = set()
    columns = zip(vocabulary.texts, vocabulary.scores.tolist(), vocabulary.types.tolist())
    for token, (text, score, token_type) in enumerate(columns):
        piece_type = types.get(token_type, PieceType.CONTROL)
        if piece_type == PieceType.CONTROL or text in seen or not _can_match(text):
            yield Piece(b"%s%d>" % (_PLACEHOLDER, token), 0.0, PieceType.CONTROL)
        else:
            seen.add(text)
            yield Piece(text, score, piece_type)
    for byte in range(256 if has_bytes else 0):
        yield Piece(b"<0x%02X>" % byte, 0.0, PieceType.BYTE)
    yield Piece(b"%sunknown>" % _PLACEHOLDER, 0.0, PieceType.UNKNOWN)


def load_processor(
    pieces: Iterable[Piece], model_type: int, normalizer: Normalizer, *, has_bytes: bool
) -> sentencepiece.SentencePieceProcessor:
    """The library's tokenizer for these pieces. Raises TokenizerError for what it refuses."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(serialized_model(pieces, model_type, normalizer, has_bytes))
    except RuntimeError as error:
        raise TokenizerError(f"the sentencepiece library refuses this vocabulary: {error}") from error
    return processor


def _can_match(text: bytes) -> bool:
    """Whether the library takes a text, and text could contain it."""
    if not text or b"\0" in text or len(text) > _MAX_PIECE_BYTES:
        return False
    if text.startswith(_PLACEHOLDER) or BYTE_TOKEN.fullmatch(text):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
