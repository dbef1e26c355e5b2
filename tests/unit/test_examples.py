"""The programs in examples/ that measure run: nothing else would notice that one has fallen behind."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.drivers import REPOSITORY

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (
            ["measure_batch.py", "--devices=cpu", "--requests=3", "--tokens=2", "--repeat=1"],
            r"median ratio [\d.]+ of 1",
        ),
        (["measure_driver.py", "--requests=9", "--batch=4"], r"sampled: [\d.]+ us a token, 288 tokens of 9"),
        (["measure_driver.py", "--cancels", "--requests=400", "--batch=8"], r"[\d]{2} cancelled, 0 failed"),
        (
            ["measure_server.py", "--clients=4", "--tokens=4", "--repeat=1"],
            r"4 clients: [\d.]+ tokens/s streaming, .*ratio [\d.]+\n(.*\n)*batch 8: \d+ us a step",
        ),
        (
            ["measure_exchange.py", "--both", "--sizes=4096", "--calls=20"],
            r"4096 bytes: TCP ping-pong \d+ us\n  f32 one-shot: median(.*\n)*  q8 around a ring: median",
        ),
        (["measure_masks.py", "--vocabulary=3000", "--fields=3", "--tokens=99"], r"mask: p50 [\d.]+ ms, p99"),
        (["measure_sampling.py", "--vocabulary=500", "--rows=1,3"], r"logprobs +3 rows: rank +[\d.]+ us"),
    ],
)
def test_programs_that_measure_run(program: list[str], printed: str) -> None:
    command = [sys.executable, f"examples/{program[0]}", *program[1:]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True)
    assert re.search(printed, done.stdout), done.stdout
