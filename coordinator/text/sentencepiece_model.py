"""Writes a SentencePiece model (a serialized ModelProto) from a list of pieces.

Knows the few fields of sentencepiece_model.proto that are needed here; knows no GGUF and no text.

The sentencepiece wheel's own message classes need the protobuf package, a dependency for forty lines:
the wire format below is a tag (field number << 3 | wire type), then a varint, four bytes, or a counted
string. Source: https://protobuf.dev/programming-guides/encoding and google/sentencepiece's
src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

_VARINT, _COUNTED, _FLOAT = 0, 2, 5  # wire types

_MODEL_TYPE_BPE = 2


class PieceType(IntEnum):
    """ModelProto.SentencePiece.Type. CONTROL pieces never match text."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


class Piece(NamedTuple):
    """One entry of the model; its id is its place. text is UTF-8, not empty, without NUL, unique."""

    text: bytes
    score: float
    type: PieceType


def serialized_model(pieces: Iterable[Piece]) -> bytes:
    """A byte-pair model with byte fallback that takes text as it is, but for the spaces that become U+2581.

    There must be one UNKNOWN piece and all 256 BYTE pieces, named <0x00> to <0xFF>.
    """
    trainer = _integer(3, _MODEL_TYPE_BPE) + _integer(35, True)  # model_type, byte_fallback
    # name, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    normalizer = _counted(1, b"identity") + _integer(3, False) + _integer(4, False) + _integer(5, True)
    fields = [_counted(1, _piece(piece)) for piece in pieces]
    return b"".join([*fields, _counted(2, trainer), _counted(3, normalizer)])


def serialized_normalizer(charsmap: bytes) -> bytes:
    """A model that only normalises text, by a table as in coordinator.text.charsmap, or not at all."""
    rules = _counted(2, charsmap) if charsmap else _counted(1, b"identity")  # precompiled_charsmap, name
    return _counted(3, rules)


def _piece(piece: Piece) -> bytes:
    score = _tag(2, _FLOAT) + struct.pack("<f", piece.score)
    return _counted(1, piece.text) + score + _integer(3, piece.type)


def _integer(field: int, value: int) -> bytes:
    return _tag(field, _VARINT) + _varint(value)


def _counted(field: int, payload: bytes) -> bytes:
    return _tag(field, _COUNTED) + _varint(len(payload)) + payload


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
