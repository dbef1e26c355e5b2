"""The tokenizer on real vocabularies, against llama.cpp's ids."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.detokenizer import Detokenizer
from coordinator.tokenizer import Tokenizer, decode, load_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared"
STORIES = "models/stories260K-f32.gguf"
LLAMA = "tokenizers/ggml-vocab-llama-spm.gguf"
PHI_3 = "tokenizers/ggml-vocab-phi-3.gguf"
SEPARATOR = "\n__ggml_vocab_test__\n"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the vocabularies in ../shared are absent")


@functools.lru_cache
def metadata_of(name: str) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(SHARED / name).fields
    wanted = ("tokenizer.", "general.")
    return {key: field.contents() for key, field in fields.items() if key.startswith(wanted)}


@functools.lru_cache
def tokenizer_of(name: str) -> Tokenizer:
    return load_tokenizer(metadata_of(name))


def texts_and_ids(name: str) -> list[tuple[str, list[int]]]:
    texts = (SHARED / f"{name}.inp").read_bytes().decode().split(SEPARATOR)
    lines = (SHARED / f"{name}.out").read_text().split("\n")
    assert texts.pop() == lines.pop() == ""
    assert len(texts) == len(lines) > 40
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines)]


@pytest.mark.parametrize("parse_special", [False, True])  # none of the texts holds a special token
@pytest.mark.parametrize("name", [LLAMA, PHI_3])
def test_ids_are_llama_cpps(name: str, parse_special: bool) -> None:
    tokenizer = tokenizer_of(name)
    for text, ids in texts_and_ids(name):
        assert tokenizer.encode(text, add_special=False, parse_special=parse_special) == ids, text
        assert tokenizer.encode(text) == [1, *ids]
        assert decode(tokenizer, ids) == text


def test_byte_level_vocabularies_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'gpt2', and only 'llama' is supported; --tokens takes"):
        load_tokenizer(metadata_of("tokenizers/ggml-vocab-gpt-2.gguf"))


@pytest.mark.parametrize("name", [STORIES, LLAMA, PHI_3])
@given(text=st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
@settings(deadline=None)
def test_any_text_survives_the_round_trip(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    if name == PHI_3:
        text = text.replace("</s>", "")
    assert decode(tokenizer, tokenizer.encode(text)) == text
    assert decode(tokenizer, tokenizer.encode(text, add_special=False)) == text


@pytest.mark.parametrize("name", [STORIES, LLAMA, PHI_3])
def test_every_token_stands_for_its_text(name: str) -> None:
    tokenizer, metadata = tokenizer_of(name), metadata_of(name)
    assert tokenizer.vocabulary_size == len(metadata["tokenizer.ggml.tokens"])
    for token, (text, kind) in enumerate(
        zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"])
    ):
        if kind in {2, 3}:
            expected = b""
        elif kind == 6:
            expected = bytes.fromhex(text[3:5])
        else:
            expected = text.replace("\u2581", " ").encode()
        assert tokenizer.token_bytes(token) == expected


def test_stories_prompts_and_continuations() -> None:
    tokenizer = tokenizer_of(STORIES)
    for case in json.loads((SHARED / "models/stories260K-greedy.json").read_text()):
        assert tokenizer.encode(case["prompt"]) == case["prompt_tokens"]
        assert decode(tokenizer, case["prompt_tokens"]) == case["prompt"]
        assert decode(tokenizer, case["tokens"]) == case["text"]  # as a text of its own
        detokenizer = Detokenizer(tokenizer)
        continuation = "".join(map(detokenizer.push, case["tokens"])) + detokenizer.finish()
        assert decode(tokenizer, case["prompt_tokens"] + case["tokens"]) == case["prompt"] + continuation


def test_special_ids_of_real_vocabularies() -> None:
    assert tokenizer_of(LLAMA).bos_token_id == 1
    assert tokenizer_of(LLAMA).eos_token_ids == {2}
    assert tokenizer_of(LLAMA).adds_bos and tokenizer_of(LLAMA).adds_space_prefix
    # <|endoftext|> is its eos_token_id; <|end|>, with which every turn ends, is only a text.
    assert tokenizer_of(PHI_3).eos_token_ids == {32000, 32007}


def test_phi_3_special_tokens_swallow_the_spaces_after_them() -> None:
    # The ids of the chat template's example on the model's page: no newline token after <|user|>.
    tokens = tokenizer_of(PHI_3).encode("<|user|>\nHi<|end|>\n<|assistant|>\n", parse_special=True)
    assert tokens == [1, 32010, 6324, 32007, 32001]
    assert tokenizer_of(PHI_3).encode("<|user|>")[:2] == [1, 529]
