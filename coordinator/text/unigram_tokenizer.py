"""The "t5" kind of tokenizer: SentencePiece's unigram model, of all ways to cut a text the likeliest.

Leaves normalising to the sentencepiece library and cutting to the tokenizers library; knows no files and no
special tokens. sentencepiece can cut too, but adds scores up as float32; tokenizers and llama.cpp as float64.
Where characters repeat, only rounding tells cuts apart (docs/decisions.md has numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import models

from tplaunch.coordinator.text.charsmap import checked_charsmap
from tplaunch.coordinator.text.sentencepiece_model import serialized_normalizer
from tplaunch.coordinator.text.token_bytes import SPACE_SYMBOL, spaced_token_bytes
from tplaunch.coordinator.text.token_type import TokenType
from tplaunch.coordinator.text.vocabulary import PREFIX, TokenizerError, Vocabulary, VocabularyDefaults
from tplaunch.coordinator.text.vocabulary_reader import read_vocabulary
from tplaunch.coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_UGM.
_DEFAULTS = VocabularyDefaults(eos_token_id=1, unknown_token_id=2, adds_eos=True)

_UNKNOWN = " "  # what no text contains once it is normalised
MAX_CUT_BYTES, MAX_CUT_TOTAL = 512, 1 << 22  # of one text, which are looked for at every place, and of all
_CUT = (TokenType.NORMAL, TokenType.UNUSED, TokenType.USER_DEFINED)  # the tokens that text is cut into


class UnigramTokenizer(VocabularyTokenizer):
    """A Tokenizer (see coordinator.text.tokenizer) of kind "t5".

    Follows llama.cpp: text is normalised by the file's table; where extra spaces go, each word begins with
    one; a run of characters that no token covers is one unknown token.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        vocabulary = read_vocabulary(metadata, _DEFAULTS)
        super().__init__(metadata, vocabulary, spaced_token_bytes(vocabulary))
        charsmap = checked_charsmap(metadata.get(PREFIX + "precompiled_charsmap"))
        self._normalizer = _load_normalizer(charsmap)
        self._ids = _first_of_each_text(vocabulary)
        self._model = _load_model(vocabulary, self._ids)

    @property
    def adds_space_prefix(self) -> bool:
        """Tells if encode puts a space before the text."""
        return self._vocabulary.adds_space_prefix or self._vocabulary.removes_extra_spaces

    def tokenize_run(self, text: str) -> Iterator[int]:
        """The tokens of a run of text."""
        for piece in self._model.tokenize(self._spaced(self._normalizer.Normalize(text))):
            token = self._ids.get(piece.value) if piece.id else self._vocabulary.unknown_token_id
            if token is None:
                raise TokenizerError(
                    f"the vocabulary has no token for {piece.value!r:.40}, nor an unknown token"
                )
            yield token

    def _spaced(self, text: str) -> str:
        """The text with U+2581 for its spaces, as many as the file wants; without a word no prefix."""
        if self._vocabulary.removes_extra_spaces:
            return "".join(SPACE_SYMBOL + word for word in text.split(" ") if word)
        has_prefix = self._vocabulary.adds_space_prefix and text.strip(" ")
        return (" " + text if has_prefix else text).replace(" ", SPACE_SYMBOL)


def _load_normalizer(charsmap: bytes) -> sentencepiece.SentencePieceNormalizer:
    try:
        return sentencepiece.SentencePieceNormalizer(
            model_proto=serialized_normalizer(charsmap),
            add_dummy_prefix=False,
            escape_whitespaces=False,
            remove_extra_whitespaces=False,
        )
    except RuntimeError as error:
        raise TokenizerError(f"the sentencepiece library refuses the normalisation: {error}") from error


def _first_of_each_text(vocabulary: Vocabulary) -> dict[str, int]:
    """Text -> id of the tokens that text can become."""
    ids: dict[str, int] = {}
    for token in vocabulary.ids_of_type(*_CUT):
        text = vocabulary.decoded(token)
        if text and " " not in text and len(vocabulary.texts[token]) <= MAX_CUT_BYTES:
            ids.setdefault(text, token)
    total = sum(len(vocabulary.texts[token]) for token in ids.values())
    if total > MAX_CUT_TOTAL:  # the library takes 340 bytes of memory for each
        raise TokenizerError(
            f"the tokens' texts have {total} bytes in all; at most {MAX_CUT_TOTAL} are possible"
        )
    return ids


def _load_model(vocabulary: Vocabulary, ids: dict[str, int]) -> models.Unigram:
    """The library's model; its id 0 is what is unknown, which costs 10 more than the worst token.

    Added tokens cost nothing, wherever normalising writes their texts.
    """
    tokens = list(ids.values())
    is_added = vocabulary.types[tokens] == TokenType.USER_DEFINED
    scores = np.where(is_added, 0.0, vocabulary.scores[tokens]).tolist()
    return models.Unigram([(_UNKNOWN, max(scores, default=0.0)), *zip(ids, scores)], 0, False)
