"""Hosts that are processes of one machine, over loopback: the Python API as head, and faults of files."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.drivers import REPOSITORY
from tests.multiprocess.test_failures import worker_processes
from tests.patience import SOON, end_of, wait_for
from tplaunch import LLM, ClosedError, GenerationError, SamplingParams, UsageError
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.launcher.hosts.fetching.server import ModelServer
from tplaunch.launcher.hosts.fetching.store import Store
from tplaunch.launcher.hosts.keys import make_key_file

DEMO = REPOSITORY / "examples" / "demo-stories.gguf"
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
TIMEOUT = 4  # seconds, --timeout


class Meeting:
    """Where hosts of this machine meet, and by which key."""

    def __init__(self, tplaunch: CommandLine, folder: Path) -> None:
        self._tplaunch, self.key = tplaunch, folder / "hosts.key"
        make_key_file(self.key)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    @property
    def options(self) -> dict[str, Any]:
        """The head's options in Python."""
        return {"devices": "numpy", "hosts": 2, "listen": self.address, "key": self.key}

    def lead(self, *words: str | Path) -> subprocess.Popen[str]:
        hosts = ("--hosts", "2", "--listen", self.address, "--key", self.key, "--timeout", str(TIMEOUT))
        return self._tplaunch.start(*words, "--devices", "numpy", *hosts)

    def join(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        way = ("join", self.address, "--key", self.key, "--devices", "numpy")
        return self._tplaunch.start(*way, *words, env=environment)


@pytest.fixture
def meeting(tplaunch: CommandLine, tmp_path: Path) -> Meeting:
    return Meeting(tplaunch, tmp_path)


def spoil(path: Path) -> None:
    """Overwrites a model's tensors in place with what are no numbers."""
    header_bytes = read_model(path).origin.parts[0].header_bytes
    with path.open("r+b") as file:
        file.seek(header_bytes)
        file.write(b"\xff" * (path.stat().st_size - header_bytes))


def test_a_copy_on_another_host_that_is_overwritten_is_named_and_ends_the_run_once(
    meeting: Meeting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python program leads; ranks that are started again would read the same spoilt copy."""
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(DEMO.read_bytes())
    joiner = meeting.join("--model", copy)
    with LLM(DEMO, restart_workers=True, **meeting.options) as llm:
        (output,) = llm.generate("Once upon a time", GREEDY)
        assert len(output.outputs[0].token_ids) == GREEDY.max_tokens
        spoil(copy)
        because = (
            rf"on host 1 \(.*\) {copy} was written to while it was in use; put it back there, or join"
            " without it to fetch it"
        )
        with pytest.raises(GenerationError, match=f"NaN.*on every rank.*: {because}"):
            llm.generate("The rabbit", GREEDY)
        (worker,) = worker_processes(joiner).values()
        worker.kill()
        wait_for(lambda: llm._opened.driver.health().state == "ended")
        with pytest.raises(ClosedError, match=f"rank 1 .*SIGKILL.*: {because}; its log"):
            llm.generate("The rabbit", GREEDY)
    stderr = end_of(joiner)
    assert joiner.returncode == 1 and re.search(f"has failed: host 1 .*SIGKILL.*: {because}", stderr), stderr
    assert "started again" not in capsys.readouterr().err


def test_a_program_asks_for_as_many_ranks_as_the_hosts_have(meeting: Meeting) -> None:
    joiner = meeting.join()
    with pytest.raises(UsageError, match="tensor_parallel_size asks for 3 ranks, and all hosts have 2;"):
        LLM(DEMO, tensor_parallel_size=3, **meeting.options)
    end_of(joiner)
    assert joiner.returncode == 1


def test_a_host_that_freezes_while_it_fetches_is_named_in_time(meeting: Meeting, tmp_path: Path) -> None:
    """It fetches for as long as the test holds what only one process may write."""
    cache = tmp_path / "cache"
    with ModelServer(read_model(DEMO).origin.parts) as server:
        facts = server.facts
    with Store(cache / "tplaunch" / "models", facts):
        head = meeting.lead("-m", DEMO, "-p", "Once upon a time")
        joiner = meeting.join(XDG_CACHE_HOME=str(cache))
        await_line(joiner, "waiting for another process that fetches the same model")
        joiner.send_signal(signal.SIGSTOP)
        stderr = end_of(head, TIMEOUT + SOON)
        joiner.send_signal(signal.SIGCONT)
    assert head.returncode == 1
    lost = r"host 1 \(.*\), fetching rank 1's part of the model: said nothing for 3\.2 s: it is off, frozen"
    assert re.search(lost, stderr), stderr
    assert f"the head at {meeting.address} " in end_of(joiner) and joiner.returncode == 1


def await_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line


def test_ways_are_compared_over_hosts_that_join_once(meeting: Meeting, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The dog was happy. It ran to the tree. " * 20)
    joiner = meeting.join("--model", DEMO)
    ways = ("--hosts 1 --devices numpy,numpy", "--wire f32", "--wire q8", "--devices none")
    compared = [word for way in ways for word in ("--compare", way)]
    options = ("--context", "64", "--chunks", "1", "--json")
    head = meeting.lead("perplexity", DEMO, text, *options, *compared)
    assert head.stdout is not None
    stdout, stderr = head.communicate(timeout=120)
    assert head.returncode == 0, stderr
    alone, exact, rounded, elsewhere = json.loads(stdout)["ways"]
    assert "hosts" not in alone["manifest"]["options"] and exact["manifest"]["options"]["hosts"] == 2
    assert exact["mean_kl_divergence"]["value"] == 0  # a rank on each: the bits of shared memory
    assert rounded["mean_kl_divergence"]["value"] > 0
    assert len(elsewhere["manifest"]["devices"]) == 1  # the head has no rank
    assert abs(elsewhere["mean_kl_divergence"]["value"]) < 1e-6
    end_of(joiner)
    assert joiner.returncode == 0
