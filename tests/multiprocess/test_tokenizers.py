"""`tplaunch run` with a byte-level vocabulary: text in, text out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.models import make_spec, write_llama
from tests.vocabularies import CONTROL, byte_level_metadata
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.text.tokenizer import decode, load_tokenizer

PROMPT = "Häns  1234\nit's 日本 <|im_end|>"
JOINS = [("i", "t"), (" ", "1"), ("'", "s"), ("1", "2"), ("12", "3")]


def written(path: Path, **keys: Any) -> Path:
    """A random model that speaks bytes, with these keys of the tokenizer."""
    added = [("<|im_end|>", CONTROL), ("<s>", CONTROL)]
    vocabulary = byte_level_metadata(JOINS, added, pre="llama-bpe", **keys)
    size = len(vocabulary["tokenizer.ggml.tokens"])
    vocabulary["tokenizer.ggml.bos_token_id"] = size - 1
    write_llama(path, make_spec(vocabulary_size=size), vocabulary=vocabulary)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("models") / "byte-level.gguf")


def report_of(tplaunch: CommandLine, model: Path, *options: str) -> dict[str, Any]:
    common = ("--devices", "numpy,numpy", model, "-n", "24", "--temperature", "0", "--ignore-eos", "--json")
    report: dict[str, Any] = json.loads(tplaunch(*common, *options, check=True).stdout)
    return report


def test_text_in_and_text_out(tplaunch: CommandLine, model: Path) -> None:
    tokenizer = load_tokenizer(read_gguf(model).metadata)
    tokens = tokenizer.encode(PROMPT)
    assert decode(tokenizer, tokens) == PROMPT
    assert tokens[0] == tokenizer.bos_token_id and not tokenizer.eos_token_ids & set(tokens)
    report = report_of(tplaunch, model, "-p", PROMPT)
    assert report["prompt_tokens"] == tokens
    assert report["text"] == decode(tokenizer, report["tokens"])
    assert len(report["tokens"]) == 24
    again = report_of(tplaunch, model, "--tokens", ",".join(map(str, tokens)))
    assert (again["tokens"], again["text"]) == (report["tokens"], report["text"])


def test_text_streams(tplaunch: CommandLine, model: Path) -> None:
    report = report_of(tplaunch, model, "-p", PROMPT)
    options = ("--devices", "numpy", model, "-p", PROMPT, "-n", "24", "--temperature", "0", "--ignore-eos")
    assert tplaunch(*options, check=True).stdout.rstrip("\n") == report["text"].rstrip("\n")


def test_suppressed_tokens_are_never_generated(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    tokens = report_of(tplaunch, model, "-p", PROMPT)["tokens"]
    without = written(tmp_path / "without.gguf", suppress_tokens=sorted(set(tokens)))
    others = report_of(tplaunch, without, "-p", PROMPT)["tokens"]
    assert len(others) == 24 and not set(others) & set(tokens)
