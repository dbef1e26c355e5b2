"""The tokenizers on real vocabularies, against llama.cpp's ids."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.text.detokenizer import Detokenizer
from tplaunch.coordinator.text.tokenizer import Tokenizer, decode, load_tokenizer

STORIES = "models/stories260K-f32.gguf"
GPT_2, LLAMA_3, QWEN_2 = (f"tokenizers/ggml-vocab-{name}.gguf" for name in ("gpt-2", "llama-bpe", "qwen2"))
LLAMA, PHI_3 = "tokenizers/ggml-vocab-llama-spm.gguf", "tokenizers/ggml-vocab-phi-3.gguf"
BYTE_LEVEL = (GPT_2, LLAMA_3, QWEN_2)
SEPARATOR = "\n__ggml_vocab_test__\n"
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


@functools.lru_cache
def load(path: Path) -> Tokenizer:
    return load_tokenizer(read_gguf(path).metadata)


def texts_and_ids(path: Path) -> list[tuple[str, list[int]]]:
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split(SEPARATOR)
    lines = path.with_name(path.name + ".out").read_text().split("\n")
    assert texts.pop() == lines.pop() == ""
    assert len(texts) == len(lines) > 40
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines)]


@pytest.mark.parametrize("parse_special", [False, True])  # none of the texts holds a special token
@pytest.mark.parametrize("name", [*BYTE_LEVEL, LLAMA, PHI_3])
def test_ids_are_llama_cpps(shared_dir: Path, name: str, parse_special: bool) -> None:
    tokenizer = load(shared_dir / name)
    begin = {LLAMA_3: [128000], LLAMA: [1], PHI_3: [1]}.get(name, [])
    for text, ids in texts_and_ids(shared_dir / name):
        assert tokenizer.encode(text, add_special=False, parse_special=parse_special) == ids, text
        assert tokenizer.encode(text) == [*begin, *ids]
        assert decode(tokenizer, ids) == text


@pytest.mark.parametrize("name", [STORIES, *BYTE_LEVEL, LLAMA, PHI_3])
@given(text=st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_the_round_trip(shared_dir: Path, name: str, text: str) -> None:
    tokenizer = load(shared_dir / name)
    assert decode(tokenizer, tokenizer.encode(text)) == text
    assert decode(tokenizer, tokenizer.encode(text, add_special=False)) == text
    detokenizer = Detokenizer(tokenizer)
    streamed = "".join(map(detokenizer.push, tokenizer.encode(text))) + detokenizer.finish()
    assert streamed == " " * (tokenizer.adds_space_prefix and text != "") + text


@pytest.mark.parametrize("name", [STORIES, LLAMA, PHI_3])
def test_every_sentencepiece_token_stands_for_its_text(shared_dir: Path, name: str) -> None:
    tokenizer, metadata = load(shared_dir / name), read_gguf(shared_dir / name).metadata
    texts, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert tokenizer.vocabulary_size == len(texts)
    for token, (text, kind) in enumerate(zip(texts, types)):
        if kind in {2, 3} or text == "</s>":
            expected = b""
        elif kind == 6:
            expected = bytes.fromhex(text[3:5])
        else:
            expected = text.replace("\u2581", " ").encode()
        assert tokenizer.token_bytes(token) == expected


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_every_byte_level_token_stands_for_its_bytes(shared_dir: Path, name: str) -> None:
    tokenizer, metadata = load(shared_dir / name), read_gguf(shared_dir / name).metadata
    texts, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    byte_of = {chr(byte): byte for byte in PRINTABLE} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
    assert tokenizer.vocabulary_size == len(texts)
    seen = set()
    for token, (text, kind) in enumerate(zip(texts, types)):
        expected = b"" if text == "</s>" else {3: b"", 4: text.encode()}.get(kind)
        if expected is None:
            expected = bytes(byte_of[character] for character in text)
        assert tokenizer.token_bytes(token) == expected
        seen.add(expected)
    assert {bytes([byte]) for byte in range(256)} <= seen  # so any text can be written


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_every_tokens_text_comes_back_from_its_tokens(shared_dir: Path, name: str) -> None:
    tokenizer = load(shared_dir / name)
    for token in range(0, tokenizer.vocabulary_size, 37):
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        assert decode(tokenizer, tokenizer.encode(text, add_special=False)) == text


def test_stories_prompts_and_continuations(shared_dir: Path) -> None:
    tokenizer = load(shared_dir / STORIES)
    for case in json.loads((shared_dir / "models/stories260K-greedy.json").read_text()):
        assert tokenizer.encode(case["prompt"]) == case["prompt_tokens"]
        assert decode(tokenizer, case["prompt_tokens"]) == case["prompt"]
        assert decode(tokenizer, case["tokens"]) == case["text"]  # as a text of its own
        detokenizer = Detokenizer(tokenizer)
        continuation = "".join(map(detokenizer.push, case["tokens"])) + detokenizer.finish()
        assert decode(tokenizer, case["prompt_tokens"] + case["tokens"]) == case["prompt"] + continuation


def test_special_ids_of_real_vocabularies(shared_dir: Path) -> None:
    llama = load(shared_dir / LLAMA)
    assert llama.bos_token_id == 1
    assert llama.eos_token_ids == {2}
    assert llama.adds_bos and llama.adds_space_prefix
    # <|endoftext|> is its eos_token_id; <|end|>, with which every turn ends, and </s> are only texts.
    assert load(shared_dir / PHI_3).eos_token_ids == {2, 32000, 32007}
    # <|end_of_text|>, and <|eot_id|> by its text. Its metadata don't say that prompts begin with a token.
    llama_3 = load(shared_dir / LLAMA_3)
    assert llama_3.eos_token_ids == {128001, 128009}
    assert llama_3.adds_bos and not llama_3.adds_space_prefix
    qwen = load(shared_dir / QWEN_2)
    assert qwen.eos_token_ids == {128247, 151643, 151645}  # </s>, <|endoftext|>, <|im_end|>
    assert not qwen.adds_bos


def test_phi_3_special_tokens_swallow_the_spaces_after_them(shared_dir: Path) -> None:
    # The ids of the chat template's example on the model's page: no newline token after <|user|>.
    tokenizer = load(shared_dir / PHI_3)
    tokens = tokenizer.encode("<|user|>\nHi<|end|>\n<|assistant|>\n", parse_special=True)
    assert tokens == [1, 32010, 6324, 32007, 32001]
    assert tokenizer.encode("<|user|>")[:2] == [1, 529]


def test_chat_templates_of_byte_level_vocabularies(shared_dir: Path) -> None:
    qwen = load(shared_dir / QWEN_2)
    text = "<|im_start|>user\nHi<|im_end|>\n"
    assert qwen.encode(text, parse_special=True) == [151644, 872, 198, 13048, 151645, 198]
    typed = qwen.encode(text)
    assert not {151644, 151645} & set(typed) and decode(qwen, typed) == text
    llama_3 = load(shared_dir / LLAMA_3)
    assert llama_3.encode("Hi<|eot_id|>", parse_special=True) == [128000, 13347, 128009]


def test_a_large_vocabulary_loads_in_two_seconds(shared_dir: Path) -> None:
    """151,936 tokens, from a cold start; the processor's seconds, since the machine may be busy."""
    program = (
        "import sys, time; from pathlib import Path; from tplaunch.coordinator.gguf.header import read_gguf; "
        "from tplaunch.coordinator.text.tokenizer import load_tokenizer; "
        "load_tokenizer(read_gguf(Path(sys.argv[1])).metadata); print(time.process_time())"
    )
    command = (sys.executable, "-c", program, str(shared_dir / QWEN_2))
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert float(result.stdout) < 2
