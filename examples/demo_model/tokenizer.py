"""Trains the SentencePiece tokenizer, in the form that llama.cpp's "llama" tokenizer reproduces.

It knows text and pieces. It does not know the model.
"""

from __future__ import annotations

import string
from pathlib import Path

import sentencepiece

UNKNOWN, BEGIN, END = 0, 1, 2


def train_tokenizer(stories: list[str], vocab_size: int, prefix: Path, threads: int) -> None:
    """Write prefix.model; no normalisation and byte fallback, so that any text survives a round trip."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(stories),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        unk_id=UNKNOWN,
        bos_id=BEGIN,
        eos_id=END,
        pad_id=-1,
        num_threads=threads,
        minloglevel=1,
    )


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
