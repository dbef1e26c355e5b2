"""Finds the tokens that are found in a text as a whole, before any merging: control tokens and added ones.

Knows what llama.cpp strips around them; knows nothing of how the text between them becomes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tplaunch.coordinator.text.markers import Marker
from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import PREFIX, Vocabulary


def find_markers(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> list[Marker]:
    """Returns the markers that are found as a whole, in the order of ids."""
    left, right = _stripping(metadata)
    markers = []
    for token in vocabulary.ids_of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
        text = vocabulary.decoded(token)
        if text:
            is_special = bool(vocabulary.types[token] != TokenType.USER_DEFINED)
            strips_right = right and text not in {"<unk>", "<s>", "<|endoftext|>"}
            markers.append(Marker(text, token, is_special, text == left, strips_right))
    return markers


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
