"""Checks SentencePiece's table of character replacements, which the library follows without looking.

The table (precompiled_charsmap): the bytes of a double-array trie, counted by a uint32; its units, uint32;
then the replacements, each ended by NUL. A unit holds the distance to its children and, where a key ends, its
first child the place of a replacement. Source: google/sentencepiece's src/normalizer.cc and its
third_party/darts_clone/darts.h.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.text.vocabulary import PREFIX, TokenizerError
from tplaunch.coordinator.text.vocabulary_reader import as_numbers

_IS_VALUE, _HAS_LEAF, _IS_FAR = 1 << 31, 1 << 8, 1 << 9
_KEY = f"{PREFIX}precompiled_charsmap"
MAX_TABLE_BYTES = 1 << 22  # ten times NFKC's
MAX_KEY_BYTES = 64  # which are walked from every place of a text
MAX_REPLACEMENT_BYTES = 128  # NFKC's longest has 33; a prompt must not become a thousand times as long


def checked_charsmap(value: object) -> bytes:
    """The table's bytes, b"" where there is none; value is a GGUF array of 8-bit integers, or None.

    Raises TokenizerError for a table in which following a text would lead outside.
    """
    table = _bytes(value)
    if not table:
        return b""
    num_bytes = int.from_bytes(table[:4], "little")
    if len(table) > MAX_TABLE_BYTES:
        raise TokenizerError(f"{_KEY} has {len(table)} bytes; at most {MAX_TABLE_BYTES} are possible")
    if len(table) < 4 or num_bytes % 1024 or not 0 < num_bytes < len(table) - 4:
        raise TokenizerError(
            f"{_KEY} is damaged: it has {len(table)} bytes and says that its trie has {num_bytes}"
        )
    units = np.frombuffer(table, "<u4", num_bytes // 4, offset=4).astype(np.int64)
    replacements = table[4 + num_bytes :]
    nodes = np.flatnonzero(units & _IS_VALUE == 0)
    children = nodes ^ _distance(units[nodes])
    if (children | 0xFF).max(initial=0) >= len(units):
        raise TokenizerError(f"{_KEY} is damaged: its trie points outside of itself")
    places = units[children[units[nodes] & _HAS_LEAF != 0]] & (_IS_VALUE - 1)
    if replacements[-1] != 0 or places.max(initial=0) >= len(replacements):
        raise TokenizerError(f"{_KEY} is damaged: its trie points outside of the replacements")
    if not _ends(units, nodes, children):
        raise TokenizerError(f"{_KEY} is damaged: its trie has keys of more than {MAX_KEY_BYTES} bytes")
    ends = np.flatnonzero(np.frombuffer(replacements, np.uint8) == 0)
    longest = (ends[np.searchsorted(ends, places)] - places).max(initial=0)
    if longest > MAX_REPLACEMENT_BYTES:
        raise TokenizerError(
            f"{_KEY} turns a character into {longest} bytes; at most {MAX_REPLACEMENT_BYTES} are possible"
        )
    if not _is_text(replacements, places):
        raise TokenizerError(f"{_KEY} is damaged: its replacements are not UTF-8")
    return table


def _is_text(replacements: bytes, places: npt.NDArray[np.int64]) -> bool:
    """Returns true if all replacements are UTF-8, and none begins within a character."""
    first_bytes = np.frombuffer(replacements, np.uint8)[places]
    try:
        replacements.decode()
    except UnicodeDecodeError:
        return False
    return not (first_bytes & 0xC0 == 0x80).any()


def _ends(
    units: npt.NDArray[np.int64], nodes: npt.NDArray[np.int64], children: npt.NDArray[np.int64]
) -> bool:
    """Returns true if no key is too long. A trie that leads back into itself has keys of any length.

    nodes: the units that are none of a replacement; children: where those of each begin.
    """
    begins = nodes ^ (units[nodes] & 0xFF)  # where the children of a node's parent begin
    reached = nodes == 0
    for _ in range(MAX_KEY_BYTES + 1):
        if not reached.any():
            return True
        is_begin = np.zeros((len(units) | 0xFF) + 1, bool)
        is_begin[children[reached]] = True
        reached = is_begin[begins]
    return False


def _distance(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    distance: npt.NDArray[np.int64] = (units >> 10) << np.where(units & _IS_FAR, 8, 0)
    return distance


def _bytes(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    numbers = as_numbers(value)
    if numbers is not None and not numbers.size:
        return b""
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.min() < -128 or numbers.max() > 255:
        raise TokenizerError(f"{_KEY} is not a list of bytes")
    return numbers.astype(np.uint8).tobytes()
