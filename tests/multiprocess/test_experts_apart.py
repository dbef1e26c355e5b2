"""Texts of a mixture of experts whose experts are on a processor, and all else on a card, with real ranks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.models import write_llama
from tests.multiprocess.test_api import run_program
from tests.unit.test_experts import experts_spec
from tests.vocabularies import byte_level_metadata

TYPES = dict.fromkeys((f"ffn_{kind}_exps.weight" for kind in ("gate", "up", "down")), "Q4_0")
APART = ("--expert-split", "devices", "--kv-type", "f32")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Writes a model of random weights, with shared experts beside those that rows are routed to."""
    path = tmp_path / "model.gguf"
    spec = dataclasses.replace(experts_spec(shared=64, length=96), vocabulary_size=257)
    write_llama(path, spec, TYPES, vocabulary=byte_level_metadata([("a", "b")]))
    return path


def tokens_of(tplaunch: CommandLine, model: Path, *options: str) -> list[int]:
    words = ("--tokens", "5,9,2,7,7,1", "-n", "24", "--temperature", "0", "--ignore-eos", "--json")
    found = tplaunch(model, *words, *options, check=True)
    tokens: list[int] = json.loads(found.stdout)["tokens"]
    return tokens


def test_texts_are_those_of_one_device(tplaunch: CommandLine, model: Path) -> None:
    """Whichever rank comes first, and with a processor of another kind beside it."""
    expected = tokens_of(tplaunch, model, "--devices", "numpy")
    assert len(expected) == 24 and len(set(expected)) > 4
    for devices in ("0,cpu", "cpu,0", "numpy,0,cpu,0"):
        assert tokens_of(tplaunch, model, "--devices", devices, *APART) == expected, devices


@pytest.mark.parametrize("lost", [0, 1])
def test_either_rank_comes_back(tplaunch: CommandLine, model: Path, lost: int) -> None:
    """The text goes on from the tokens that it has."""
    tplaunch.program, tplaunch.validate = (sys.executable,), False
    lines = run_program(
        tplaunch,
        f"""
        import psutil
        apart = dict(devices="0,cpu", expert_split="devices", kv_type="f32")
        llm = LLM({str(model)!r}, **apart, restart_workers=True)
        greedy = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
        driver, found = llm._opened.driver, []
        def generate(): return llm.generate(["Once upon a time", "The"], greedy)
        expected = generate()
        count = driver.stats().num_generated_tokens
        thread = threading.Thread(target=lambda: found.append(generate()))
        (rank,) = [one for one in psutil.Process().children() if "--rank={lost}" in one.cmdline()]
        thread.start()
        while driver.stats().num_generated_tokens < count + 10: time.sleep(0.001)
        rank.kill()
        thread.join()
        print([[one.outputs[0].token_ids for one in outputs] for outputs in found]
            == [[one.outputs[0].token_ids for one in expected]], driver.stats().num_restarts)
        llm.close()
        """,
    )
    assert lines == ["True 1"]
