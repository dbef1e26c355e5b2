"""How much a thread of attention computes at once, and the memory that it needs for that."""

from __future__ import annotations

VECTORS = 32  # queries, of rows times heads that share a KV head
TILE = 32  # keys or values that are widened at once: those of 128 elements stay in a core's first cache
LINE = 64  # bytes of 16 float32
STATE_BYTES, RANGE_BYTES = 4 * LINE, 16  # of a query: maxima and weights, and the keys that it sees


def vector_bytes(length: int) -> int:
    """Returns the bytes of so many float32 in whole vectors."""
    return (length + 15) // 16 * LINE


def room_bytes(key_length: int, value_length: int, cut: int) -> int:
    """Returns what a thread needs, for cuts of so many keys."""
    of_query = vector_bytes(key_length) + 4 * cut + 2 * vector_bytes(value_length) + STATE_BYTES + RANGE_BYTES
    return VECTORS * of_query + TILE * vector_bytes(max(key_length, value_length))
