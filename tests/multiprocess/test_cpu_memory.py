"""A rank on a processor takes what its buffers take and 64 MB, also where a start compiles its kernels."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine

BESIDE_BYTES = 64_000_000
PROGRAM = """
import psutil
from tplaunch import LLM, SamplingParams
with LLM(demo=True, devices="cpu", verbose=True) as llm:
    llm.generate("Once upon a time " * 20, SamplingParams(temperature=0, max_tokens=12))
    for child in psutil.Process().children():
        if any(word.startswith("--rank=") for word in child.cmdline()):
            print(open(f"/proc/{child.pid}/smaps_rollup").read())
"""


@pytest.mark.parametrize("start", ["first", "second"])
def test_a_rank_takes_little_beside_its_buffers(tplaunch: CommandLine, tmp_path: Path, start: str) -> None:
    tplaunch.program = (sys.executable,)
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(1 + (start == "second")):
        done = tplaunch("-c", PROGRAM, env=environment, check=True)
    assert ("kernels for this processor" in done.stderr) == (start == "first")
    (own,) = re.findall(r"^Anonymous: +([0-9]+) kB$", done.stdout, re.MULTILINE)  # of no file
    (buffers,) = re.findall(r"ready: ([0-9]+) bytes on the device", done.stderr)
    assert int(own) * 1024 - int(buffers) < BESIDE_BYTES
