"""The "llama" kind of tokenizer: SentencePiece byte-pair merging with byte fallback, as llama.cpp does it.

Leaves the merging to the sentencepiece library; knows no files and no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from coordinator.text.sentencepiece_library import load_processor, pieces
from coordinator.text.sentencepiece_model import MODEL_TYPE_BPE, Normalizer, PieceType
from coordinator.text.token_bytes import spaced_token_bytes
from coordinator.text.vocabulary import PREFIX, TokenizerError, TokenType, VocabularyDefaults, read_vocabulary
from coordinator.text.vocabulary_tokenizer import VocabularyTokenizer

# llama.cpp's defaults for this kind: src/llama-vocab.cpp, LLAMA_VOCAB_TYPE_SPM.
_DEFAULTS = VocabularyDefaults(bos_token_id=1, eos_token_id=2, adds_bos=True, adds_space_prefix=True)

# Which tokens take part in merging, and as what.
_PIECE_TYPES = {
    TokenType.NORMAL: PieceType.NORMAL,
    TokenType.USER_DEFINED: PieceType.NORMAL,  # older files write its spaces as U+2581, as merging sees them
    TokenType.UNUSED: PieceType.UNUSED,
    TokenType.UNDEFINED: PieceType.UNUSED,
}


class SentencePieceTokenizer(VocabularyTokenizer):
    """A Tokenizer (see coordinator.tokenizer) of kind "llama".

    Follows llama.cpp: each run of text between special tokens gets the space prefix; characters that no token
    covers become byte tokens. Two differences: control tokens never come out of merging, so that what a user
    typed can't become one, and what merges into a token marked as unused is taken apart again.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from GGUF metadata; raises TokenizerError."""
        charsmap: Any = metadata.get(PREFIX + "precompiled_charsmap")
        if hasattr(charsmap, "__len__") and len(charsmap):
            raise TokenizerError(
                f"{PREFIX}precompiled_charsmap asks for text normalisation, which is not supported "
                "with a tokenizer of kind 'llama'; give the prompt as token ids with --tokens"
            )
        vocabulary = read_vocabulary(metadata, _DEFAULTS)
        super().__init__(metadata, vocabulary, spaced_token_bytes(vocabulary))
        self._processor = load_processor(
            pieces(vocabulary, _PIECE_TYPES, has_bytes=True), MODEL_TYPE_BPE, Normalizer(), has_bytes=True
        )

    def tokenize_run(self, text: str) -> Iterator[int]:
        """The tokens of a run of text."""
        if self._vocabulary.removes_extra_spaces:
            text = re.sub(" +", " ", text).strip(" ")
        # Every run of text starts the prompt or follows a special token, and there llama.cpp puts the prefix.
        prefix = " " if text and self._vocabulary.adds_space_prefix else ""
        for piece in self._processor.EncodeAsIds(prefix + text):
            yield piece if piece < self.vocabulary_size else self.byte_token(piece - self.vocabulary_size)
