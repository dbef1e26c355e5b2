"""Stages in processes of their own: one rank's tokens, several at once, and faults that name the rank."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine, complaints
from tests.multiprocess.test_failures import ENDLESS, await_text, worker_processes
from tests.patience import SOON, end_of

PROMPT = ("--tokens", "1,403,407,261,378", "-n", "24", "--ignore-eos", "--temperature", "0", "--json")
# Texts of several prompts together, one of which takes several steps, and one with samples that fetch rows.
TOGETHER = """
import json, sys
from tplaunch import LLM, SamplingParams
with LLM(demo=True, devices=sys.argv[1], pipeline=int(sys.argv[2]), parallel=6, prefill_chunk=48) as llm:
    prompts = ["Once upon a time", "The dog " * 60, "Lily", "One day", "A cat"]
    greedy = SamplingParams(temperature=0, max_tokens=30)
    flat = SamplingParams(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=20, seed=4)
    outputs = llm.generate(prompts, [greedy, greedy, flat, greedy, flat], use_tqdm=False)
    print(json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
"""


def tokens_of(tplaunch: CommandLine, *options: str) -> list[int]:
    found: list[int] = json.loads(tplaunch("--demo", *options, *PROMPT, check=True).stdout)["tokens"]
    return found


def test_stages_give_one_rank_s_tokens(tplaunch: CommandLine) -> None:
    expected = tokens_of(tplaunch, "--devices", "0")
    for options in (
        ("--devices", "0,0", "--pipeline", "2"),
        ("--devices", "0,0,0,0", "--pipeline", "2"),
        ("--devices", "0,0", "--pipeline-split", "1,4"),
        ("--devices", "0,0,0,0", "--pipeline", "2", "--collective", "zmq-ring"),
    ):
        assert tokens_of(tplaunch, *options) == expected, options


def test_sequences_together_have_the_same_tokens(tplaunch: CommandLine) -> None:
    tplaunch.program = (sys.executable,)
    found = [
        tplaunch("-c", TOGETHER, devices, stages, check=True).stdout
        for devices, stages in (("numpy", "1"), ("numpy,numpy,numpy", "3"))
    ]
    assert found[0] == found[1] and all(json.loads(found[0]))


@pytest.mark.parametrize("rank", range(4))
def test_a_killed_rank_of_any_stage(tplaunch: CommandLine, rank: int) -> None:
    process = tplaunch.start("--demo", "--devices", "numpy,numpy,numpy,numpy", "--pipeline", "2", *ENDLESS)
    await_text(process)
    os.kill(worker_processes(process)[rank].pid, signal.SIGKILL)
    stderr = end_of(process, SOON)
    assert process.returncode == 1
    (line,) = [line for line in complaints(stderr) if "NumPy" not in line]
    assert f"rank {rank} " in line and "SIGKILL" in line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_named_by_the_stage_behind_it(tplaunch: CommandLine, rank: int) -> None:
    options = ("--devices", "numpy,numpy", "--pipeline", "2", "--timeout", "8")
    process = tplaunch.start("--demo", *options, *ENDLESS)
    await_text(process)
    worker_processes(process)[rank].suspend()
    stderr = end_of(process)
    assert process.returncode == 1 and f"rank-{rank}.log" in stderr and "Traceback" not in stderr


def test_what_can_not_be_cut_is_refused(tplaunch: CommandLine) -> None:
    for options, sentence in (
        (
            ("--devices", "numpy", "--pipeline", "2"),
            "--pipeline 2: each stage needs a rank, but",
        ),
        (
            ("--devices", "numpy,numpy", "--pipeline-split", "3,3"),
            "stages of 3, 3 layers, where the model has 5",
        ),
        (
            ("--devices", "numpy,numpy", "--pipeline-split", "5,0"),
            "stages of 5, 0 layers, where the model has 5",
        ),
        (("--devices", "numpy", "--pipeline", "0"), "--pipeline 0: 1 to 64 stages are possible"),
        (
            ("--devices", "numpy", "--pipeline", "3", "--pipeline-split", "2,3"),
            "--pipeline-split has 2 stages",
        ),
    ):
        result = tplaunch("plan", "--demo", *options)
        assert result.returncode in (1, 2) and sentence in result.stderr.replace("\n", " ")


def test_the_plan_shows_the_layers_of_each_rank(tplaunch: CommandLine) -> None:
    plan = ("plan", "--demo", "--devices", "numpy,numpy,numpy,numpy", "--pipeline", "2")
    shown = tplaunch(*plan, check=True).stdout
    assert re.search(r"rank +layers +heads", shown)
    ranks = json.loads(tplaunch(*plan, "--json", check=True).stdout)["ranks"]
    assert ranks[0]["layers"] == ranks[1]["layers"] and ranks[2]["layers"] == ranks[3]["layers"]
    assert ranks[0]["layers"][0] == 0 and ranks[2]["layers"] == [ranks[0]["layers"][1], 5]
    assert ranks[0]["vocabulary_rows"] == [0, 0] and ranks[3]["vocabulary_rows"][1] > 0


def test_a_ledger_has_the_handover(tplaunch: CommandLine, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    tests = ("--prefill", "none", "--decode", "4", "--at-context", "0", "--batch", "2", "--repeat", "1")
    output = ("--ledger", "--trace", trace)
    ranks = ("--devices", "numpy", "--ranks", "1,2", "--pipeline", "2")
    bench = tplaunch("bench", "--shape", "tiny", *ranks, *tests, *output, check=True)
    one, two = bench.stdout.split("mean microseconds of a step")[1:]
    assert "handover" in two and "handover" not in one
    assert '"handover"' in trace.read_text()
