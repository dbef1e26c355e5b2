"""Maps tokens to the bytes they stand for, and finds the tokens for bytes that nothing else covers.

Knows the two ways in which a vocabulary writes bytes as text; knows no metadata and no merging.
"""

from __future__ import annotations

from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import Vocabulary

SPACE_SYMBOL = "\u2581"  # stands for a space in SentencePiece's vocabularies

# Byte-level vocabularies write each byte as one printable character: a byte that is a printable Latin-1
# character as itself, the others in order from U+0100. Source: bytes_to_unicode in openai/gpt-2's
# src/encoder.py.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + place) for place, byte in enumerate(_OTHERS)
}
# Back again, by way of Latin-1; a character that stands for no byte becomes one that Latin-1 doesn't have.
_FROM_CHARACTERS = dict.fromkeys(_OTHERS, "\ufffd") | {
    ord(character): chr(byte) for byte, character in _BYTE_CHARACTERS.items()
}

# As in llama.cpp, what no text is made of stands for none.
_WITHOUT_BYTES = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED, TokenType.UNDEFINED)


def spaced_token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Returns bytes by id, for UTF-8 texts with U+2581 for spaces; b"" for special and unused tokens."""
    symbol = SPACE_SYMBOL.encode()
    return _special_replaced(vocabulary, [text.replace(symbol, b" ") for text in vocabulary.texts])


def byte_level_token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Returns bytes by id, for texts of _BYTE_CHARACTERS; added tokens and other texts are themselves."""
    stands_for = [_characters_to_bytes(text) for text in vocabulary.texts]
    for token in vocabulary.ids_of_type(TokenType.USER_DEFINED):
        stands_for[token] = vocabulary.texts[token]
    return _special_replaced(vocabulary, stands_for)


def byte_fallback(vocabulary: Vocabulary) -> list[int | None]:
    """Returns a token for each of the 256 bytes: a byte token, one of one character, or the unknown token."""
    fallback = [vocabulary.unknown_token_id] * 256
    for token in reversed(vocabulary.ids_of_type(TokenType.NORMAL)):
        if len(vocabulary.texts[token]) == 1:
            fallback[vocabulary.texts[token][0]] = token
    for token in reversed(vocabulary.ids_of_type(TokenType.BYTE)):
        fallback[vocabulary.byte_of(token)] = token
    return fallback


def _special_replaced(vocabulary: Vocabulary, stands_for: list[bytes]) -> list[bytes]:
    for token in vocabulary.ids_of_type(*_WITHOUT_BYTES):
        stands_for[token] = b""
    for token in vocabulary.ids_of_type(TokenType.BYTE):
        stands_for[token] = bytes([vocabulary.byte_of(token)])
    return stands_for


def _characters_to_bytes(text: bytes) -> bytes:
    try:
        return text.decode().translate(_FROM_CHARACTERS).encode("latin-1")
    except UnicodeError:
        return text
