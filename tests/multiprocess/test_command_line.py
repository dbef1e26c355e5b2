"""The `tplaunch` fixture notices what a run leaves behind; tried on small programs instead of tplaunch."""

import os
import sys
from pathlib import Path

import psutil
import pytest

import tests.command_line
from tests.command_line import CommandLine

# Found by their session and environment, by their environment alone, and by their session alone.
SLEEPERS = """
import subprocess as s
kinds = {}, {'start_new_session': True}, {'env': {}}
p = [s.Popen(['sleep', '60'], stdout=s.DEVNULL, stderr=s.DEVNULL, **kind) for kind in kinds]
"""
LOG = "import os; p = os.environ['TMPDIR'] + '/rank.log'; open(p, 'w').close()"


@pytest.fixture(autouse=True)
def segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of /dev/shm, where tests that run beside these look for what they leave behind."""
    monkeypatch.setattr(tests.command_line, "SHARED_MEMORY", tmp_path)
    return tmp_path / "segment"


@pytest.fixture
def python(tmp_path: Path) -> CommandLine:
    """Runs Python instead of tplaunch; the test closes it."""
    return CommandLine(os.environ, tmp_path / "cache", program=(sys.executable, "-c"))


def test_a_clean_run(python: CommandLine) -> None:
    result = python("import sys; print(input()); print(sys.argv[1:], file=sys.stderr)", "x", input="hello")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "['x']\n")
    python.close()
    assert not python.folder.exists()


def test_a_failure_is_reported(python: CommandLine) -> None:
    assert python("raise SystemExit(3)").returncode == 3
    with pytest.raises(AssertionError, match="exited with 3"):
        python("raise SystemExit(3)", check=True)
    python.close()


def test_a_hang_is_ended(python: CommandLine) -> None:
    with pytest.raises(AssertionError, match=r"still running after 0\.5 s"):
        python("import time; time.sleep(60)", timeout=0.5)
    python.close()


def test_what_was_started_is_ended(python: CommandLine) -> None:
    process = python.start("import time; print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    python.close()
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("program", "leftover"),
    [
        (SLEEPERS, r"(process .*sleep 60\s*){3}"),
        (LOG, r"file .*rank\.log"),
        ("import tempfile; tempfile.mkdtemp()", "file .*tmp/"),
        ("open('SEGMENT', 'w').close()", "shared memory .*/segment"),
    ],
)
def test_leftovers_are_found(python: CommandLine, segment: Path, program: str, leftover: str) -> None:
    python(program.replace("SEGMENT", str(segment)), check=True)
    with pytest.raises(AssertionError, match=leftover):
        python.close()
    assert not [process for process in psutil.Process().children() if process.name() == "sleep"]


def test_a_log_that_the_run_names_may_stay(python: CommandLine) -> None:
    python(LOG + "; print('see', p)", check=True)
    python.close()


def test_shared_memory_in_use_by_another_program_is_not_ours(python: CommandLine, segment: Path) -> None:
    with segment.open("w"):
        python.close()
