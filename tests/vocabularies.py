"""Small made-up vocabularies of the byte-level kind, as GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gguf

from tplaunch.coordinator.text.tokenizer import TokenizerError, load_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = sorted(set(range(256)) - _PRINTABLE)
CHARACTERS = [chr(byte if byte in _PRINTABLE else 256 + _OTHERS.index(byte)) for byte in range(256)]
FIRST = 256  # the id of the first token after the bytes


def written(text: str | bytes) -> str:
    """A text as byte-level vocabularies write it."""
    return "".join(CHARACTERS[byte] for byte in (text.encode() if isinstance(text, str) else text))


def byte_level_metadata(
    joins: Sequence[tuple[str, str]] = (),
    added: Sequence[tuple[str, int]] = (),
    model: str = "gpt2",
    pre: str | None = "gpt-2",
    **keys: Any,
) -> dict[str, Any]:
    """All bytes, then what the joins make, then the added tokens (text, type); a None key is left out.

    joins: the merges, as pairs of texts that users see; keys: what replaces the values made of these.
    """
    pairs = [(written(left), written(right)) for left, right in joins]
    made = list(dict.fromkeys(left + right for left, right in pairs))
    values = {
        "model": model,
        "pre": pre,
        "tokens": [*CHARACTERS, *made, *(text for text, _ in added)],
        "token_type": [NORMAL] * (256 + len(made)) + [kind for _, kind in added],
        "merges": [f"{left} {right}" for left, right in pairs],
    } | keys
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def add_vocabulary(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Has the writer of a GGUF file write these keys too."""
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)


def expect_error_or_tokens(metadata: dict[str, Any], text: str) -> None:
    """Checks that a text's tokens stand for bytes, or that the metadata is refused in one line."""
    try:
        tokenizer = load_tokenizer(metadata)
        for parse_special in (False, True):
            for token in tokenizer.encode(text, parse_special=parse_special):
                assert isinstance(tokenizer.token_bytes(token), bytes)
    except TokenizerError as error:
        assert "\n" not in str(error)
