"""The "gpt2" kind of tokenizer: byte pairs that merge in the order of a list, within words; also "gemma4".

Leaves cutting and merging to the tokenizers library; knows no files and no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from tplaunch.coordinator.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from tplaunch.coordinator.text.token_bytes import (
    SPACE_SYMBOL,
    byte_level_token_bytes,
    spaced_token_bytes,
)
from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import PREFIX, TokenizerError, Vocabulary, VocabularyDefaults
from tplaunch.coordinator.text.vocabulary_reader import read_vocabulary
from tplaunch.coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

_SURROGATE = re.compile("[\ud800-\udfff]")

# What must never come out of merging, so that what a user typed can't become a control token.
_NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)

_UNKNOWN = " "  # no text contains it when it merges: it stands for characters without a token

# The library's regular expressions panic after ten million steps back in one match.
_MAX_CHARACTERS = 4_000_000

LONG_TEXT = 1 << 12  # characters that take a millisecond

Pair = tuple[str, str]


class BytePairTokenizer(VocabularyTokenizer):
    """A Tokenizer (see tokenizer.py) of kind "gpt2", or "gemma4", which names its own pre-tokenizer.

    Follows llama.cpp, also in leaving out bytes that have no token: Falcon has none for most ASCII control
    characters. Two differences: control tokens never come out of merging, and a file without bos_token_id or
    eos_token_id has none, where llama.cpp takes token 11, which is Falcon's.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        self._kind = _pre_tokenizer(metadata)
        if self._kind.forces_bos:
            metadata = {**metadata, PREFIX + "add_bos_token": True}
        defaults = VocabularyDefaults(adds_bos=self._kind.adds_bos, names_bytes=not self._kind.is_byte_level)
        vocabulary = read_vocabulary(metadata, defaults)
        as_bytes = byte_level_token_bytes if self._kind.is_byte_level else spaced_token_bytes
        super().__init__(metadata, vocabulary, as_bytes(vocabulary))
        self._ids = _merging_ids(vocabulary, self._kind.is_byte_level)
        pairs = _pairs(metadata, vocabulary, self._kind)
        missing = _missing(pairs, self._ids)
        if missing and self._kind.ignores_merges:  # the library would take these for tokens that are words
            raise TokenizerError(f"{PREFIX}merges names {missing[0]!a:.80}, which is no token")
        self._instead = [[], *map(self._fallback, missing)]
        ids = self._ids | {
            text: self.vocabulary_size + place for place, text in enumerate((_UNKNOWN, *missing))
        }
        self._library = tokenizers.Tokenizer(_load_model(ids, pairs, self._kind))
        self._library.pre_tokenizer = _library_pre_tokenizer(self._kind)

    @property
    def adds_space_prefix(self) -> bool:
        """False: this kind takes text as it is, whatever the file's add_space_prefix says."""
        return False

    def tokenize_run(self, text: str) -> Iterable[int]:
        """The tokens of a run of text."""
        if not self._kind.is_byte_level:
            text = text.replace(" ", SPACE_SYMBOL)
        if not self._kind.keeps_newlines:
            return self._merge(text)
        return (token for part in re.split("(\n+)", text) for token in self._part(part))

    def _part(self, text: str) -> list[int]:
        whole = self._ids.get(text) if text.startswith("\n") else None
        return self._merge(text) if whole is None else [whole]

    def _merge(self, text: str) -> list[int]:
        if len(text) > _MAX_CHARACTERS:
            raise TokenizerError(
                f"the text has {len(text)} characters in a row without a special token; at most "
                f"{_MAX_CHARACTERS} can be made into tokens at once"
            )
        ids = self._encoded(text)
        if max(ids, default=0) < self.vocabulary_size:
            return ids
        return [token for known in ids for token in self._known(known)]

    def _encoded(self, text: str) -> list[int]:
        """Returns the library's ids. Of a batch alone it lets other threads of Python run meanwhile."""
        if len(text) < LONG_TEXT:
            found: list[int] = self._library.encode(text, add_special_tokens=False).ids
        else:
            found = self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return found

    def _known(self, token: int) -> list[int]:
        place = token - self.vocabulary_size
        return [token] if place < 0 else self._instead[place]

    def _fallback(self, text: str) -> list[int]:
        """Returns llama.cpp's ids for a text that is no token: its bytes, as far as they are tokens."""
        names = [f"<0x{byte:02X}>" for byte in text.encode()] if not self._kind.is_byte_level else list(text)
        return [self._ids[name] for name in names if name in self._ids and name.isascii()]


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = "gemma4" if metadata[PREFIX + "model"] == "gemma4" else metadata.get(PREFIX + "pre", "")
    if not isinstance(name, str):
        raise TokenizerError(f"{PREFIX}pre is of type {type(name).__name__}, not the name of a pre-tokenizer")
    name = name or "default"
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"the model file's pre-tokenizer is {name!r:.80}, which is not known; known: "
            f"{', '.join(sorted(PRE_TOKENIZERS))}; --tokens takes the prompt as token ids with any tokenizer"
        )
    return PRE_TOKENIZERS[name]


def _merging_ids(vocabulary: Vocabulary, is_byte_level: bool) -> dict[str, int]:
    """Text -> id of what merging starts with and comes to, the first of equal texts."""
    ids = {}
    types = vocabulary.types.tolist()
    for token in reversed(range(len(types))):
        if types[token] not in _NEVER_MERGED:
            ids[vocabulary.decoded(token) or ""] = token
        elif types[token] == TokenType.BYTE and not is_byte_level:
            ids[f"<0x{vocabulary.byte_of(token):02X}>"] = token  # the library's names for bytes
    ids.pop("", None)
    return ids


def _pairs(metadata: Mapping[str, Any], vocabulary: Vocabulary, kind: PreTokenizer) -> list[Pair]:
    """The merges, the most urgent first, without those that make a control token."""
    merges = metadata.get(PREFIX + "merges", [] if kind.needs_no_merges else None)
    if not isinstance(merges, list | tuple):
        what = "missing" if merges is None else f"of type {type(merges).__name__}"
        raise TokenizerError(f"{PREFIX}merges is {what}, not a list of pairs of tokens")
    never = {vocabulary.decoded(token) for token in vocabulary.ids_of_type(*_NEVER_MERGED)}
    pairs = dict.fromkeys(_pair(number, merge) for number, merge in enumerate(merges))
    return [pair for pair in pairs if never.isdisjoint((*pair, "".join(pair))) and " " not in pair[1]]


def _missing(pairs: list[Pair], ids: Mapping[str, int]) -> list[str]:
    """The texts that merges name and no token has. The library wants ids for them, too."""
    return list(dict.fromkeys(text for pair in pairs for text in (*pair, "".join(pair)) if text not in ids))


def _pair(number: int, merge: object) -> Pair:
    """Two texts with a space between; a space that begins the first belongs to it."""
    if not isinstance(merge, str):
        raise TokenizerError(f"merge {number} of {PREFIX}merges is of type {type(merge).__name__}")
    space = merge.find(" ", 1)
    if space < 0 or _SURROGATE.search(merge):
        raise TokenizerError(f"merge {number} of {PREFIX}merges is {merge!a:.80}, not two texts with a space")
    return merge[:space], merge[space + 1 :]


def _load_model(ids: dict[str, int], pairs: list[Pair], kind: PreTokenizer) -> models.BPE:
    return models.BPE(
        ids,
        pairs,
        unk_token=_UNKNOWN,
        ignore_merges=kind.ignores_merges,
        byte_fallback=not kind.is_byte_level,
    )


def _library_pre_tokenizer(kind: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in kind.patterns
    ]
    if kind.is_byte_level:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)
