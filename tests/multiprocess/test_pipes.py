"""Readers that go: of the text, which ends the run; of standard error, which changes nothing; and ranks."""

import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_failures import ENDLESS, await_text
from tests.patience import PATIENCE, end_of, wait_for
from tplaunch.coordinator.framing import framed
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.bench_ranks import GRACE_SECONDS, BenchRanks
from tplaunch.worker.jobs.messages import Failed, Meeting, StillThere, Timings

MEETING = Meeting(("here",))


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def test_who_reads_no_further_ends_the_run(tplaunch: CommandLine, model: Path) -> None:
    """As `| head -1` does."""
    process = tplaunch.start("--devices", "numpy,numpy", model, *ENDLESS)
    await_text(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    lines = [line for line in process.stderr.read().splitlines() if not line.startswith("tplaunch: ")]
    assert (process.wait(PATIENCE), lines) == (0, [])
    assert list((tplaunch.folder / "state").glob("tplaunch/*")) == []


@pytest.mark.parametrize("arguments", [("--help",), ("models",), ("run", "--help")])
def test_nobody_reads_at_all(tplaunch: CommandLine, arguments: tuple[str, ...]) -> None:
    process = tplaunch.start(*arguments)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(PATIENCE)) == ("", 0)


def test_the_text_comes_where_nobody_reads_standard_error(tplaunch: CommandLine, model: Path) -> None:
    arguments = ("--devices", "numpy,numpy", model, "-p", "Once", "-n", "20", "--temperature", "0")
    expected = tplaunch(*arguments, check=True).stdout
    for options in ((), ("-v",), ("--ledger",)):
        process = tplaunch.start(*arguments, *options)
        assert process.stdout is not None and process.stderr is not None
        process.stderr.close()
        assert process.stdout.read() == expected != "", options
        assert process.wait(PATIENCE) == 0


def test_an_error_has_its_code_where_nobody_reads_it(tplaunch: CommandLine) -> None:
    process = tplaunch.start("--devices", "numpy", "absent.gguf", "-p", "Once")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(PATIENCE) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_of_a_bench_that_dies_is_named(tplaunch: CommandLine, rank: int) -> None:
    process = tplaunch.start("bench-collectives", "--ranks", "3", "--sizes", "16M")
    wait_for(lambda: len(bench_ranks(tplaunch)) == 3)
    os.kill(bench_ranks(tplaunch)[rank], signal.SIGKILL)
    stderr = end_of(process)
    assert process.returncode == 1
    sentence = f"tplaunch: rank {rank} of shared-memory ended without a result: killed by SIGKILL"
    assert any(line.startswith(sentence) for line in stderr.splitlines())


def bench_ranks(tplaunch: CommandLine) -> dict[int, int]:
    """Process ids by rank, of the ranks that have been told their job."""
    found = {}
    for process in tplaunch.living_processes():
        with contextlib.suppress(psutil.Error):
            for word in process.cmdline():
                if word.startswith("--rank="):
                    found[int(word.partition("=")[2])] = process.pid
    return found


def test_a_rank_of_a_bench_that_is_stopped_ends_it(tplaunch: CommandLine) -> None:
    """The rank may still be starting or sum already: another rank misses it, or the launcher does."""
    rank = 1
    process = tplaunch.start("bench-collectives", "--ranks", "3", "--sizes", "16M", "--timeout", "1")
    wait_for(lambda: len(bench_ranks(tplaunch)) == 3)
    os.kill(bench_ranks(tplaunch)[rank], signal.SIGSTOP)
    stderr = end_of(process)
    assert process.returncode == 1
    (line,) = [line for line in stderr.splitlines() if line.startswith("tplaunch: ")]
    assert re.search(
        rf"waited 1 s in .* for ranks? .*{rank}|^tplaunch: rank {rank} .* said nothing for 6 s", line
    )


def test_a_bench_waits_for_no_rank_that_is_stopped_while_it_answers() -> None:
    """Half a line is no answer, and a pipe that stays open is no sign of life."""
    expected = pytest.raises(RunError, match=r"rank 0 of shared-memory said nothing for 0.5 s")
    with expected, BenchRanks("shared-memory", 0.5 - GRACE_SECONDS) as ranks:
        half, whole = framed(MEETING)[:9], framed(MEETING)
        ranks.start([sys.executable, "-c", f"import os; os.write(1, {half!r}); os.kill(os.getpid(), 19)"])
        ranks.start([sys.executable, "-c", f"import os; os.write(1, {whole!r}); input()"])
        ranks.hear(Meeting)


def test_a_bench_says_what_a_rank_says_of_another() -> None:
    expected = pytest.raises(RunError, match=r"^rank 0 of zmq-ring failed: rank 0 waited 1 s for rank 1$")
    with expected, BenchRanks("zmq-ring", 60) as ranks:
        said = framed(StillThere()) + framed(Failed("rank 0 waited 1 s for rank 1"))
        ranks.start([sys.executable, "-c", f"import os; os.write(1, {said!r})"])
        ranks.hear(Meeting)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"Hello", "gave no answer that can be read: no message begins with b'Hello'"),
        (framed(Timings(())), "sent Timings, where one Meeting was expected"),
        (framed(MEETING) * 2, "sent Meeting and Meeting, where one Meeting was expected"),
    ],
)
def test_a_bench_says_what_is_no_answer(said: bytes, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence), BenchRanks("zmq-ring", 60) as ranks:
        ranks.start([sys.executable, "-c", f"import os; os.write(1, {said!r})"])
        ranks.hear(Meeting)


def test_the_timeout_of_a_bench_is_checked(tplaunch: CommandLine) -> None:
    result = tplaunch("bench-collectives", "--timeout", "0")
    assert (result.returncode, result.stderr) == (
        2, "tplaunch: --timeout 0.0: a positive number of seconds is needed\n"
    )  # fmt: skip
