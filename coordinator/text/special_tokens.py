"""Finds the tokens that are found in a text as a whole, before any merging: control tokens and added ones.

Knows what llama.cpp strips around them; knows nothing of how the text between them becomes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import PREFIX, Vocabulary

_ASCII_SPACES = " \t\n\v\f\r"


class Marker(NamedTuple):
    """A token that is found in the text as a whole."""

    text: str
    token: int
    is_special: bool  # found only on request
    strips_left: bool = False  # swallows the spaces before it
    strips_right: bool = False  # swallows the spaces that follow it


def find_markers(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> list[Marker]:
    """What is found as a whole, the longest text first."""
    left, right = _stripping(metadata)
    markers = []
    for token in vocabulary.ids_of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
        text = vocabulary.decoded(token)
        if text:
            is_special = bool(vocabulary.types[token] != TokenType.USER_DEFINED)
            strips_right = right and text not in {"<unk>", "<s>", "<|endoftext|>"}
            markers.append(Marker(text, token, is_special, text == left, strips_right))
    return sorted(markers, key=lambda marker: -len(marker.text.encode()))


def cut_at_markers(text: str, markers: list[Marker], parse_special: bool) -> list[str | int]:
    """The text cut at its markers: runs of text, never two in a row and none empty, and token ids."""
    fragments: list[str | int] = [text] if text else []
    for marker in markers:
        if (parse_special or not marker.is_special) and marker.text in text:
            fragments = [part for fragment in fragments for part in _cut(fragment, marker)]
    return fragments


def _cut(fragment: str | int, marker: Marker) -> list[str | int]:
    """A run of text with every occurrence of the marker replaced by its token."""
    if isinstance(fragment, int):
        return [fragment]
    runs = fragment.split(marker.text)
    if marker.strips_right:
        runs[1:] = [run.lstrip(_ASCII_SPACES) for run in runs[1:]]
    if marker.strips_left:
        runs[:-1] = [run.rstrip(_ASCII_SPACES) for run in runs[:-1]]
    parts = [part for run in runs for part in (run, marker.token)][:-1]
    return [part for part in parts if part != ""]


def _stripping(metadata: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The one token that swallows the spaces before it, and whether most swallow those that follow.

    As in llama.cpp, only names tell, the first that fits: Phi-3's tokens swallow what follows.
    """
    pre, architecture = _name(metadata, PREFIX + "pre"), _name(metadata, "general.architecture")
    if any(kind in pre for kind in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        return "<mask>", False
    if any(kind in architecture for kind in ("nomic-bert-moe", "jina-bert-v3")):
        return "<mask>", False
    name = _name(metadata, "general.name")
    if "phi-3" in name or "phi3" in name:
        return None, True
    return ("[MASK]" if "modern-bert" in name else None), False


def _name(metadata: Mapping[str, Any], key: str) -> str:
    return str(metadata.get(key, "")).lower()
