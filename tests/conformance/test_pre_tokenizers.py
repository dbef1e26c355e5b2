"""Every byte-level pre-tokenizer against ids that llama.cpp gave, for texts that tell them apart.

pre_tokenizers.json.gz: "tokens" (beside the 256 bytes) and "merges" of a small vocabulary, trained on such
texts with merges across the borders of words; "texts"; "ids" by tokenizer.ggml.pre, a list for each text, of
llama.cpp at the release of llama-cpp-python 0.3.36. Some merges are left out, so that words that are tokens
differ from merged ones.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.vocabularies import CHARACTERS, byte_level_metadata
from tplaunch.coordinator.text.pre_tokenizers import PRE_TOKENIZERS
from tplaunch.coordinator.text.tokenizer import decode, load_tokenizer

STORED: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("pre_tokenizers.json.gz").read_bytes())
)


@pytest.mark.parametrize("pre", STORED["ids"])
def test_ids_are_llama_cpps(pre: str) -> None:
    tokens = [*CHARACTERS, *STORED["tokens"]]
    keys = {"tokens": tokens, "token_type": None, "merges": STORED["merges"], "pre": pre}
    tokenizer = load_tokenizer(byte_level_metadata(**keys))
    for text, ids in zip(STORED["texts"], STORED["ids"][pre], strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, ascii(text)
        assert decode(tokenizer, ids) == text


def test_every_kind_is_stored() -> None:
    stored = {PRE_TOKENIZERS[name] for name in STORED["ids"]}
    assert stored == {kind for kind in PRE_TOKENIZERS.values() if kind.is_byte_level}
