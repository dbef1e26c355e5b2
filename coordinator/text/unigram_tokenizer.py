"""The "t5" kind of tokenizer: SentencePiece's unigram model, of all ways to cut a text the likeliest.

Leaves normalising and cutting to the sentencepiece library; knows no files and no special tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coordinator.text.charsmap import checked_charsmap
from coordinator.text.sentencepiece_library import load_processor, pieces
from coordinator.text.sentencepiece_model import MODEL_TYPE_UNIGRAM, Normalizer, PieceType
from coordinator.text.token_bytes import spaced_token_bytes
from coordinator.text.vocabulary import PREFIX, TokenizerError, TokenType, VocabularyDefaults, read_vocabulary
from coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_UGM.
_DEFAULTS = VocabularyDefaults(eos_token_id=1, adds_eos=True)


class UnigramTokenizer(VocabularyTokenizer):
    """A Tokenizer (see coordinator.tokenizer) of kind "t5".

    Follows llama.cpp: text is normalised by the file's table; where extra spaces go, each word begins with
    one; a run of characters that no token covers is one unknown token. One difference: tokens marked as
    unused never come out.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        vocabulary = read_vocabulary(metadata, _DEFAULTS)
        super().__init__(metadata, vocabulary, spaced_token_bytes(vocabulary))
        removes = vocabulary.removes_extra_spaces
        charsmap = checked_charsmap(metadata.get(PREFIX + "precompiled_charsmap"))
        self._processor = load_processor(
            pieces(vocabulary, {TokenType.NORMAL: PieceType.NORMAL}, has_bytes=False),
            MODEL_TYPE_UNIGRAM,
            Normalizer(charsmap, adds_prefix=removes, removes_extra_spaces=removes),
            has_bytes=False,
        )

    @property
    def adds_space_prefix(self) -> bool:
        """Whether encode puts a space before the text."""
        return self._vocabulary.adds_space_prefix or self._vocabulary.removes_extra_spaces

    def tokenize_run(self, text: str) -> Iterator[int]:
        """The tokens of a run of text."""
        # Without a word llama.cpp puts no prefix, unlike the library.
        has_prefix = self._vocabulary.adds_space_prefix and not self._vocabulary.removes_extra_spaces
        prefix = " " if has_prefix and text.strip(" ") else ""
        for piece in self._processor.EncodeAsIds(prefix + text):
            yield piece if piece < self.vocabulary_size else self._unknown_token()

    def _unknown_token(self) -> int:
        if self._vocabulary.unknown_token_id is None:
            raise TokenizerError(
                "the text has characters that no token covers, and there is no unknown token"
            )
        return self._vocabulary.unknown_token_id
