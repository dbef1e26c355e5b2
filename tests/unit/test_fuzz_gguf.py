"""A minute's worth of mutated model files; python -m tests.fuzz_gguf tries as many as one has time for."""

from __future__ import annotations

import subprocess
import sys

from tests.drivers import REPOSITORY


def test_mutated_files_run_or_are_refused_by_a_sentence() -> None:
    command = [sys.executable, "-m", "tests.fuzz_gguf", "--files", "800", "--seconds", "60"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250, check=False)
    assert result.returncode == 0, result.stdout[-10_000:] + result.stderr[-10_000:]
    summary = result.stdout.splitlines()[-1]
    assert all(f"'{stage}'" in summary for stage in ("read", "run")), summary  # some come all the way
