"""Reads and checks the vocabulary that a GGUF file's metadata holds.

Knows the metadata's keys and what may be wrong with their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.text import known_tokens
from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import (
    BYTE_TOKEN,
    PREFIX,
    TokenizerError,
    Vocabulary,
    VocabularyDefaults,
)

MAX_TEXT_BYTES = 1 << 16  # of one token: no vocabulary comes near


def read_vocabulary(metadata: Mapping[str, Any], defaults: VocabularyDefaults) -> Vocabulary:
    """The vocabulary in GGUF metadata (key -> scalar, list or array).

    Raises TokenizerError for what is missing, of the wrong type or length, or out of range.
    """
    texts = _texts(metadata)
    size = len(texts)
    bos = _token_id(metadata, "bos_token_id", size, defaults.bos_token_id)
    eos = _token_id(metadata, "eos_token_id", size, defaults.eos_token_id)
    unknown = _token_id(metadata, "unknown_token_id", size, defaults.unknown_token_id)
    types = _types(metadata, texts, [token for token in (bos, eos) if token is not None], unknown)
    if defaults.names_bytes:
        bytes_named = [token for token, text in enumerate(texts) if BYTE_TOKEN.fullmatch(text)]
        types[[token for token in bytes_named if types[token] == TokenType.NORMAL]] = TokenType.BYTE
    named = {key: _token_id(metadata, key, size) for key in known_tokens.KEYS} | {"eos_token_id": eos}
    ends = known_tokens.find_ends(texts, types, named)
    if unknown is None and TokenType.UNKNOWN in types:
        unknown = int(np.argmax(types == TokenType.UNKNOWN))
    return Vocabulary(
        texts=texts,
        scores=_scores(metadata, size),
        types=types,
        bos_token_id=bos,
        eos_token_id=eos,
        unknown_token_id=unknown,
        eos_token_ids=ends,
        suppressed_token_ids=_suppressed(metadata, size),
        adds_bos=_adds(metadata, "bos", bos, defaults.adds_bos),
        adds_eos=_adds(metadata, "eos", eos, defaults.adds_eos),
        adds_space_prefix=_flag(metadata, "add_space_prefix", defaults.adds_space_prefix),
        removes_extra_spaces=_flag(metadata, "remove_extra_whitespaces", False),
    )


def _texts(metadata: Mapping[str, Any]) -> tuple[bytes, ...]:
    tokens = metadata.get(PREFIX + "tokens")
    if isinstance(tokens, np.ndarray):
        tokens = tokens.tolist()
    if not isinstance(tokens, list | tuple):
        raise TokenizerError(f"{PREFIX}tokens is {_described(tokens)}, not a list of strings")
    if not tokens:
        raise TokenizerError(f"{PREFIX}tokens is empty")
    texts = tuple(_text_bytes(token, text) for token, text in enumerate(tokens))
    for token, text in enumerate(texts):
        if len(text) > MAX_TEXT_BYTES:
            raise TokenizerError(
                f"token {token} of {PREFIX}tokens has {len(text)} bytes, more than {MAX_TEXT_BYTES}"
            )
    return texts


def _text_bytes(token: int, text: object) -> bytes:
    """A token's text as bytes; a reader may have decoded invalid UTF-8 with surrogates."""
    if isinstance(text, bytes | bytearray):
        return bytes(text)
    if not isinstance(text, str):
        raise TokenizerError(f"token {token} of {PREFIX}tokens is {_described(text)}, not a string")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TokenizerError(f"token {token} of {PREFIX}tokens is not Unicode text: {text!a:.80}") from None


def _numbers(metadata: Mapping[str, Any], key: str, dtype_kinds: str) -> npt.NDArray[Any] | None:
    """The array at a key, of one of NumPy's dtype kinds; None where the key is absent."""
    value = metadata.get(PREFIX + key)
    if value is None:
        return None
    numbers = as_numbers(value)
    if numbers is None:
        raise TokenizerError(f"{PREFIX}{key} is not a list of numbers")
    if numbers.size and numbers.dtype.kind not in dtype_kinds:
        raise TokenizerError(f"{PREFIX}{key} holds values of type {numbers.dtype}, not the numbers it should")
    return numbers


def as_numbers(value: object) -> npt.NDArray[Any] | None:
    """A list of numbers as an array [size]; None for what is none.

    Types are looked at first: of texts NumPy would make an array of as many times the longest of them.
    """
    if not isinstance(value, np.ndarray):
        if not isinstance(value, list | tuple) or not set(map(type, value)) <= {int, float, bool}:
            return None
        try:
            value = np.array(value)
        except OverflowError:
            return None
    return value if value.ndim == 1 and value.dtype.kind in "biuf" else None


def _column(metadata: Mapping[str, Any], key: str, size: int, dtype_kinds: str) -> npt.NDArray[Any] | None:
    """The first values at a key, [size], one for each token; None where the key is absent."""
    numbers = _numbers(metadata, key, dtype_kinds)
    if numbers is not None and len(numbers) < size:
        raise TokenizerError(f"{PREFIX}{key} holds {len(numbers)} values for {size} tokens")
    return None if numbers is None else numbers[:size]


def _scores(metadata: Mapping[str, Any], size: int) -> npt.NDArray[Any]:
    """float32 [size]; without scores all are equal, as in llama.cpp."""
    numbers = _column(metadata, "scores", size, "fiu")
    if numbers is None:
        return np.zeros(size, np.float32)
    with np.errstate(over="ignore"):
        scores = numbers.astype(np.float32)
    if np.isnan(scores).any():
        raise TokenizerError(f"{PREFIX}scores holds NaN for token {int(np.argmax(np.isnan(scores)))}")
    return scores


def _types(
    metadata: Mapping[str, Any], texts: tuple[bytes, ...], control: list[int], unknown: int | None
) -> npt.NDArray[Any]:
    """int64 [size]; where the file states none, control tokens are known by their ids."""
    types = _stated_types(metadata, len(texts))
    if types is None:
        types = np.full(len(texts), TokenType.NORMAL, np.int64)
        types[control] = TokenType.CONTROL
        if unknown is not None:
            types[unknown] = TokenType.UNKNOWN
    return types


def _stated_types(metadata: Mapping[str, Any], size: int) -> npt.NDArray[Any] | None:
    numbers = _column(metadata, "token_type", size, "iu")
    if numbers is None:
        return None
    known = (numbers >= 0) & (numbers <= max(TokenType))
    return np.where(known, numbers, TokenType.UNDEFINED).astype(np.int64)


def _token_id(metadata: Mapping[str, Any], key: str, size: int, default: int | None = None) -> int | None:
    """The id at a key. As in llama.cpp, one outside the vocabulary counts for nothing."""
    value = metadata.get(PREFIX + key)
    if value is not None and (not isinstance(value, int | np.integer) or isinstance(value, bool)):
        raise TokenizerError(f"{PREFIX}{key} is {_described(value)}, not a token id")
    for token in (value, default):
        if token is not None and 0 <= token < size:
            return int(token)
    return None


def _suppressed(metadata: Mapping[str, Any], size: int) -> frozenset[int]:
    tokens = _numbers(metadata, "suppress_tokens", "iu")
    return frozenset() if tokens is None else frozenset(tokens[(tokens >= 0) & (tokens < size)].tolist())


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    value = metadata.get(PREFIX + key)
    if value is None:
        return default
    if not isinstance(value, bool | np.bool_):
        raise TokenizerError(f"{PREFIX}{key} is {_described(value)}, not true or false")
    return bool(value)


def _adds(metadata: Mapping[str, Any], name: str, token: int | None, default: bool) -> bool:
    """Returns true if prompts get the token; asking for one that the file doesn't name is an error."""
    adds = _flag(metadata, f"add_{name}_token", default and token is not None)
    if adds and token is None:
        raise TokenizerError(f"{PREFIX}add_{name}_token is true but there is no {PREFIX}{name}_token_id")
    return adds


def _described(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
