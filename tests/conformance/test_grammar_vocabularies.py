"""Grammars on real vocabularies of every kind: texts under a schema are valid, whatever the tokens are."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest

from tests.grammars import text_of, walk
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.serving.grammar import spec as specs
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.vocabulary import Words
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo-stories.gguf"
NAMES = [f"ggml-vocab-{name}.gguf" for name in ("gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3")]
SCHEMA = {
    "type": "object",
    "properties": {
        "größe": {"type": "integer", "minimum": -5, "maximum": 1000},
        "name": {"type": "string", "maxLength": 20},
        "kind": {"enum": ["red fox", " spaced ", "日本"]},
        "all": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["größe", "name", "kind", "all"],
    "additionalProperties": False,
}


@functools.lru_cache
def load(path: Path) -> Tokenizer:
    return load_tokenizer(read_gguf(path).metadata)


@pytest.fixture(params=["demo", *NAMES])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "demo":
        return load(DEMO)
    shared: Path = request.getfixturevalue("shared_dir")
    return load(shared / "tokenizers" / request.param)


def test_texts_under_a_schema_are_valid(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocabulary_size + 64
    compiler = GrammarCompiler(tokenizer, size)
    try:
        grammar = compiler.compile(specs.json_schema(SCHEMA))
        validator, num_valid = jsonschema_rs.validator_for(SCHEMA), 0
        for seed in range(6):
            tokens = walk(grammar, tokenizer, size, seed, most=300)
            if tokens is not None:
                validator.validate(json.loads(text_of(tokenizer, tokens)))
                num_valid += 1
        assert num_valid >= 3
        value = {"größe": 7, "name": "it is", "kind": "red fox", "all": [True]}
        mask, ends = grammar.start(size, tokenizer.eos_token_ids), sorted(tokenizer.eos_token_ids)
        tokens = Words(tokenizer, size)(json.dumps(value, ensure_ascii=False))
        assert json.loads(text_of(tokenizer, tokens)) == value
        for place, token in enumerate(tokens):
            table = mask.allowed(tokens[:place])
            assert table[token] and not table[ends].any() and not table[tokenizer.vocabulary_size :].any()
        assert set(np.flatnonzero(mask.allowed(tokens)).tolist()) == set(ends)
    finally:
        compiler.close()
