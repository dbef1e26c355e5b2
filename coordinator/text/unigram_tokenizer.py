"""The "t5" kind of tokenizer: SentencePiece's unigram model, of all ways to cut a text the likeliest.

Leaves normalising to the sentencepiece library and cutting to the tokenizers library; knows no files and no
special tokens. sentencepiece can cut too, but adds scores up as float32; tokenizers and llama.cpp as float64.
Where characters repeat, only rounding tells cuts apart, and one in five came out different.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sentencepiece
from tokenizers import models

from coordinator.text.charsmap import checked_charsmap
from coordinator.text.sentencepiece_model import serialized_normalizer
from coordinator.text.token_bytes import spaced_token_bytes
from coordinator.text.vocabulary import (
    PREFIX,
    TokenizerError,
    TokenType,
    Vocabulary,
    VocabularyDefaults,
    read_vocabulary,
)
from coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_UGM.
_DEFAULTS = VocabularyDefaults(eos_token_id=1, adds_eos=True)

_UNKNOWN = " "  # what no text contains once it is normalised


class UnigramTokenizer(VocabularyTokenizer):
    """A Tokenizer (see coordinator.text.tokenizer) of kind "t5".

    Follows llama.cpp: text is normalised by the file's table; where extra spaces go, each word begins with
    one; a run of characters that no token covers is one unknown token. One difference: tokens marked as
    unused never come out.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        vocabulary = read_vocabulary(metadata, _DEFAULTS)
        super().__init__(metadata, vocabulary, spaced_token_bytes(vocabulary))
        charsmap = checked_charsmap(metadata.get(PREFIX + "precompiled_charsmap"))
        self._normalizer = _load_normalizer(charsmap, vocabulary.removes_extra_spaces)
        self._ids = _first_of_each_text(vocabulary)
        self._model = _load_model(vocabulary, self._ids)

    @property
    def adds_space_prefix(self) -> bool:
        """Whether encode puts a space before the text."""
        return self._vocabulary.adds_space_prefix or self._vocabulary.removes_extra_spaces

    def tokenize_run(self, text: str) -> Iterator[int]:
        """The tokens of a run of text."""
        # Without a word llama.cpp puts no prefix, unlike the library.
        has_prefix = self._vocabulary.adds_space_prefix and not self._vocabulary.removes_extra_spaces
        prefix = " " if has_prefix and text.strip(" ") else ""
        for piece in self._model.tokenize(self._normalizer.Normalize(prefix + text)):
            token = self._ids.get(piece.value) if piece.id else self._vocabulary.unknown_token_id
            if token is None:
                raise TokenizerError(
                    f"the vocabulary has no token for {piece.value!r:.40}, nor an unknown token"
                )
            yield token


def _load_normalizer(charsmap: bytes, removes_extra_spaces: bool) -> sentencepiece.SentencePieceNormalizer:
    try:
        return sentencepiece.SentencePieceNormalizer(
            model_proto=serialized_normalizer(charsmap),
            add_dummy_prefix=removes_extra_spaces,
            escape_whitespaces=True,
            remove_extra_whitespaces=removes_extra_spaces,
        )
    except RuntimeError as error:
        raise TokenizerError(f"the sentencepiece library refuses the normalisation: {error}") from error


def _first_of_each_text(vocabulary: Vocabulary) -> dict[str, int]:
    """Text -> id of the tokens that text can become."""
    ids: dict[str, int] = {}
    for token in vocabulary.ids_of_type(TokenType.NORMAL):
        text = vocabulary.decoded(token)
        if text and " " not in text:
            ids.setdefault(text, token)
    return ids


def _load_model(vocabulary: Vocabulary, ids: dict[str, int]) -> models.Unigram:
    """The library's model; its id 0 is what is unknown, which costs 10 more than the worst token."""
    scores = vocabulary.scores[list(ids.values())].tolist()
    return models.Unigram([(_UNKNOWN, max(scores, default=0.0)), *zip(ids, scores)], 0, False)
