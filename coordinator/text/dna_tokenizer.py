"""The "hybriddna" kind of tokenizer: byte pairs, but between <dna> and </dna> six bases a token.

Leaves what is not between these to coordinator.text.byte_pair_tokenizer; knows no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tplaunch.coordinator.text.byte_pair_tokenizer import BytePairTokenizer

_BASES_PER_TOKEN = 6
_BEGIN, _END, _OTHER = b"<dna>", b"</dna>", b"<oov>"  # _OTHER stands for bases that have no token
_MARK = "\ue000".encode()  # ends the texts of bases, so that they differ from words; it is no part of them
_SEQUENCE = re.compile(r"(<dna>.*?(?:</dna>|\Z))", re.DOTALL)


class DnaTokenizer(BytePairTokenizer):
    """A Tokenizer (see coordinator.text.tokenizer) of kind "hybriddna".

    Follows llama.cpp: bases may be lower case, and a last token of fewer bases is filled up with A.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        super().__init__(metadata)
        texts = self._vocabulary.texts
        self._by_text = {text: token for token, text in reversed(list(enumerate(texts)))}
        self._has_dna = {_BEGIN, _END, _OTHER} <= self._by_text.keys()
        for token in range(self._by_text.get(_OTHER, len(texts)) + 1, len(texts)):
            if texts[token].endswith(_MARK) and self._bytes[token]:
                self._bytes[token] = texts[token].removesuffix(_MARK)

    def tokenize_run(self, text: str) -> Iterable[int]:
        """The tokens of a run of text."""
        if not self._has_dna:
            return super().tokenize_run(text)
        return (token for part in _SEQUENCE.split(text) if part for token in self._part_of_run(part))

    def _part_of_run(self, part: str) -> Iterator[int]:
        if not part.startswith(_BEGIN.decode()):
            yield from super().tokenize_run(part)
            return
        bases = part.encode().removeprefix(_BEGIN)
        yield self._by_text[_BEGIN]
        yield from self._of_bases(bases.removesuffix(_END).upper())
        if bases.endswith(_END):
            yield self._by_text[_END]

    def _of_bases(self, bases: bytes) -> Iterator[int]:
        for start in range(0, len(bases), _BASES_PER_TOKEN):
            some = bases[start : start + _BASES_PER_TOKEN].ljust(_BASES_PER_TOKEN, b"A")
            yield self._by_text.get(some + _MARK, self._by_text[_OTHER])
