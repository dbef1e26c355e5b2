"""Keyword arguments of Python are the command line's options: the same names, checks and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tplaunch.launcher.config import API_PARALLEL, HubModel, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.keywords import config_of, in_keywords
from tplaunch.launcher.model_options import run_config
from tplaunch.launcher.words import DEMO_MODEL, parse_words

pytestmark = pytest.mark.unit


def config_of_words(*words: str) -> RunConfig:
    """Returns the command line's configuration for the words, with the API's own default."""
    options = parse_words(["run", f"--parallel={API_PARALLEL}", *words])
    return run_config(options, options.model)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, []),
        ({"devices": "0,1"}, ["--devices", "0,1"]),
        ({"devices": [0, 1]}, ["--devices", "0,1"]),
        ({"devices": 1}, ["--devices", "1"]),
        ({"devices": ["radeon", "cpu"]}, ["--devices", "radeon,cpu"]),
        ({"tensor_split": [3, 1.5]}, ["--tensor-split", "3,1.5"]),
        ({"tensor_split": (np.float32(3), np.int64(1))}, ["--tensor-split", "3,1"]),
        ({"tensor_split": "auto"}, ["--tensor-split", "auto"]),
        ({"context": 512}, ["--context", "512"]),
        ({"max_model_len": 512}, ["--context", "512"]),
        ({"n_ctx": np.int32(512)}, ["--context", "512"]),
        ({"max_num_seqs": 5}, ["--parallel", "5"]),
        ({"kv_type": "q8_0", "activations": "q8"}, ["--kv-type", "q8_0", "--activations", "q8"]),
        ({"max_memory": {0: "8GiB", "cpu": 1 << 34}}, ["--max-memory", f"0=8GiB,cpu={1 << 34}"]),
        ({"max_memory": "0=8GiB"}, ["--max-memory", "0=8GiB"]),
        ({"without": ["int64", "float16"]}, ["--without", "int64,float16"]),
        ({"timeout": 2.5, "load_timeout": 9}, ["--timeout", "2.5", "--load-timeout", "9"]),
        ({"verbose": True, "staging": False, "validate": None}, ["-v"]),
        ({"submit_ahead": True}, ["--submit-ahead"]),
        ({"submit_ahead": False}, ["--submit-then-wait"]),
        ({"submit_then_wait": True}, ["--submit-then-wait"]),
        ({"submit_then_wait": False}, ["--submit-ahead"]),
        (
            {"override_kv": {"a.b": True, "c": 5, "d": 1.5, "e": "x"}},
            ["--override-kv=a.b=bool:true", "--override-kv=c=int:5", "--override-kv=d=float:1.5",
             "--override-kv=e=str:x"],
        ),
        ({"override_kv": "c=int:5"}, ["--override-kv=c=int:5"]),
        ({"override_kv": ["c=int:5", "d=int:6"]}, ["--override-kv=c=int:5", "--override-kv=d=int:6"]),
    ],
)  # fmt: skip
def test_the_same_as_on_the_command_line(keywords: dict[str, Any], words: list[str]) -> None:
    assert config_of("-m.gguf", keywords) == config_of_words("--model=-m.gguf", *words)


def test_what_only_programs_and_servers_have() -> None:
    assert config_of("m.gguf", {"restart_workers": True}).restart_workers
    assert not config_of("m.gguf", {}).restart_workers


def test_models() -> None:
    assert config_of(Path("a/m.gguf"), {}).model == Path("a/m.gguf")
    assert config_of(None, {"model_path": "m.gguf"}).model == Path("m.gguf")
    assert config_of(None, {"demo": True}).model == DEMO_MODEL
    for name in ("hf", "hf_repo", "hfr"):
        assert config_of(None, {name: "org/m:Q4_K_M"}).model == HubModel("org/m", "Q4_K_M")
    assert config_of(None, {"hf": "org/m", "hf_file": "m.gguf"}).model == HubModel("org/m", None, "m.gguf")


@pytest.mark.parametrize(
    ("model", "keywords", "sentence"),
    [
        ("m", {"contxt": 3}, "there is no option contxt; did you mean context?"),
        ("m", {"max_model_length": 3}, "there is no option max_model_length; did you mean context?"),
        ("m", {"dtype": "auto"}, "there is no option dtype: the model file says it"),
        ("m", {"gpu_memory_utilization": 0.9}, 'max_memory={0: "8GiB"} says what the ranks'),
        ("m", {"zzz": 1}, "there is no option zzz; `tplaunch run --help` lists them all"),
        ("m", {"temperature": 1}, "there is no option temperature: it is a field of SamplingParams"),
        ("m", {"max_tokens": 9}, "there is no option max_tokens: it is a field of SamplingParams"),
        ("m", {"help": True}, "there is no option help"),
        ("m", {"kv_type": "f17"}, "kv_type: invalid choice: 'f17'"),
        ("m", {"context": "many"}, "context: invalid int value: 'many'"),
        ("m", {"context": 1.5}, "context: invalid int value: '1.5'"),
        ("m", {"context": True}, "context can't be of type bool: True"),
        ("m", {"context": -1}, "context -1: at least 1 is needed"),
        ("m", {"devices": object()}, "devices can't be of type object"),
        ("m", {"verbose": 1}, "verbose is True or False, not 1"),
        ("m", {"parallel": 0}, "parallel 0: 1 to 1024 sequences are possible"),
        ("m", {"n_ctx": 2, "context": 3}, "n_ctx, context: two of these names stand for one option"),
        ("m", {"demo": True}, "the model is given twice; give one of"),
        ("", {}, "there is no model; give one of"),
        (None, {}, "there is no model; give one of"),
        (None, {"hf": "x"}, 'hf="x": a repository of Hugging Face is written org/name'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_sentence(model: str | None, keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        config_of(model, keywords)
    assert sentence in str(raised.value) and "--" not in str(raised.value).replace("--help", "")


def test_options_in_sentences() -> None:
    assert in_keywords("give more with --context, or -hf org/m:Q8_0; a-b, -5 and - stay") == (
        'give more with context, or hf="org/m:Q8_0"; a-b, -5 and - stay'
    )
    assert (
        in_keywords("use --kv-type q8_0 (now --all-reduce auto)") == "use kv_type q8_0 (now all_reduce auto)"
    )
