"""Ranks that end or hang while others load a model, which takes them many seconds."""

import os
import signal
import subprocess

import psutil
import pytest

from tests.command_line import CommandLine, complaints
from tests.multiprocess.test_failures import worker_processes
from tests.patience import SOON, end_of, wait_for

# Made-up weights of a billion parameters, of which each rank makes half.
LOAD = ("bench", "--devices", "numpy,numpy", "--shape", "llama-3.2-1b", "--prefill", "8", "--decode", "none")
LOADED_BYTES = 300 << 20  # well after the start, and well before the end


def loading(tplaunch: CommandLine, *options: str) -> tuple[subprocess.Popen[str], dict[int, psutil.Process]]:
    """A run whose ranks both have begun to load."""
    process = tplaunch.start(*LOAD, *options)
    wait_for(lambda: len(worker_processes(process)) == 2)
    workers = worker_processes(process)
    wait_for(lambda: min(worker.memory_info().rss for worker in workers.values()) > LOADED_BYTES)
    return process, workers


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_while_the_other_loads(tplaunch: CommandLine, rank: int) -> None:
    process, workers = loading(tplaunch)
    os.kill(workers[rank].pid, signal.SIGKILL)
    stderr = end_of(process, SOON)
    tplaunch.printed += stderr
    assert process.returncode == 1
    assert f"rank {rank} (numpy) ended: killed by SIGKILL (" in complaints(stderr)[-1]


def test_a_rank_that_hangs_while_the_other_loads(tplaunch: CommandLine) -> None:
    """The other one's progress is none of its own."""
    process, workers = loading(tplaunch, "--load-timeout", "8")
    workers[1].suspend()
    stderr = end_of(process)
    tplaunch.printed += stderr
    assert process.returncode == 1
    sentence = "tplaunch: rank 1 got no further in loading for 8 s; --load-timeout allows more; its log: "
    assert complaints(stderr)[-1].startswith(sentence)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_ranks_load(tplaunch: CommandLine, number: signal.Signals) -> None:
    process, _ = loading(tplaunch)
    os.killpg(process.pid, number)
    end_of(process)
    assert process.returncode == 128 + number
