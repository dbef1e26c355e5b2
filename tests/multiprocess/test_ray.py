"""A Ray cluster places and starts the hosts of a run, and starts one anew elsewhere when its node is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

from tests.command_line import CommandLine
from tests.drivers import IN_CI, REPOSITORY
from tests.patience import end_of

DEMO = REPOSITORY / "examples" / "demo-stories.gguf"
ON_RAY = ("--engine", "ray", "--devices", "numpy", "--load-timeout", "120")
STORY = ("-p", "Once upon a time", "-n", "12", "--temperature", "0", "--json")
NUM_REQUESTS = 12
MARK = "TPLAUNCH_TEST_RAY"  # in the environment of all processes of a cluster and its runs
IDLE_SECONDS = 4.0
# Waits a second of an idle process (1 to 9 were found): with 0.1 ms of work behind each they are less than
# 1 % of a core. Ray's own threads have some 50 in the head, and 140 in the actor.
MOST_WAITS, MOST_WAITS_WITH_RAY = 40, 500
SPINNING_PART = 0.1  # of a core, which who never waits gets on any machine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and not IN_CI,
    reason="Ray is not installed: pip install -e .[ray]",
)
Tell = Callable[[str], None]


@contextmanager
def cluster(num_devices: int) -> Iterator[tuple[dict[str, str], Tell]]:
    """Two nodes; gives the environment that finds them, and a way to add a node or kill the second one."""
    for attempt in range(3):  # Ray gives a node up after 30 s, which a busy machine may need
        with ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # a longer path is too long for Ray's sockets
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            inputs, outputs = nodes(stack, folder, num_devices)
            address = outputs.readline().strip()
            if not address and attempt < 2:
                continue
            assert address, "Ray's nodes do not start"

            def tell(what: str, inputs: IO[str] = inputs, outputs: IO[str] = outputs) -> None:
                inputs.write(f"{what}\n")
                inputs.flush()
                assert outputs.readline() == "done\n"

            yield {"RAY_ADDRESS": address, MARK: folder}, tell
            return


def nodes(stack: ExitStack, folder: str, num_devices: int) -> tuple[IO[str], IO[str]]:
    """Starts what has the nodes; returns its input and output. It is gone when the stack ends."""
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "XDG_STATE_HOME": f"{folder}/state"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", MARK: folder}
    environment["RAY_worker_niceness"] = "0"  # with Ray's own 15 other programs leave ranks nothing
    environment["RAY_TMPDIR"] = folder  # where Ray writes its address, into a folder that it does not make
    Path(folder, "ray").mkdir()
    command = [sys.executable, "-m", "tests.ray_cluster", folder, str(num_devices)]
    process = stack.enter_context(
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    assert process.stdin is not None and process.stdout is not None
    stack.callback(process.wait, 60)
    stack.callback(process.stdin.close)
    return process.stdin, process.stdout


def test_nodes_that_declare_nothing_are_asked_and_idle_ones_do_nothing(tplaunch: CommandLine) -> None:
    alone = tplaunch(DEMO, "--devices", "numpy", *STORY, check=True)
    with cluster(0) as (environment, _):
        process = tplaunch.start("serve", *ON_RAY, "--port", "0", DEMO, env=environment)
        try:
            url, said = listening(process)
            assert "Ray has placed 2 ranks on 2 nodes" in said
            body = {"model": "demo-stories", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
            assert answer["choices"][0]["text"] == json.loads(alone.stdout)["text"]
            check_idle(process, environment[MARK])
        finally:
            process.send_signal(signal.SIGTERM)
            stderr = end_of(process)
    assert process.returncode == 0, stderr


def listening(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Returns the address of a server, and what it said before."""
    assert process.stderr is not None
    said = ""
    while line := process.stderr.readline():
        said += line
        if found := re.search(r"listening on (http://\S+)", line):
            return found[1], said
    raise AssertionError(said)


def check_idle(head: subprocess.Popen[str], mark: str) -> None:
    """Asserts that the processes of the run do next to nothing while nobody asks."""
    ours = [one for one in psutil.process_iter() if is_ours(one, mark)]
    assert len(ours) >= 5  # the head, its rank, the actor, what joins there, and its rank
    before = [(num_waits(one), sum(one.cpu_times()[:2])) for one in ours]
    with pytest.raises(subprocess.TimeoutExpired):
        head.wait(IDLE_SECONDS)
    for one, (waits, seconds) in zip(ours, before, strict=True):
        words = one.cmdline()
        has_rays_threads = one.pid == head.pid or "NodeAgent" in " ".join(words)
        most = MOST_WAITS_WITH_RAY if has_rays_threads else MOST_WAITS
        # How long the work behind a wait takes says more of what else the machine does.
        assert num_waits(one) - waits <= most * IDLE_SECONDS, words
        assert sum(one.cpu_times()[:2]) - seconds <= SPINNING_PART * IDLE_SECONDS, words


def num_waits(process: psutil.Process) -> int:
    """Counts how often threads of a process have waited for something so far, by the kernel."""
    found = 0
    for status in Path(f"/proc/{process.pid}/task").glob("*/status"):
        with suppress(OSError):  # of a thread that has just ended
            found += int(status.read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def is_ours(process: psutil.Process, mark: str) -> bool:
    """Tells whether a process is of this test's runs: of Ray's own only the actor's."""
    try:
        words, environment = " ".join(process.cmdline()), process.environ()
    except psutil.Error:
        return False
    return environment.get(MARK) == mark and ("tplaunch" in words or "NodeAgent" in words)


def requests(folder: Path) -> Path:
    body = {"model": "demo-stories", "prompt": "Once upon a time", "max_tokens": 200, "temperature": 0}
    line = {"method": "POST", "url": "/v1/completions", "body": body | {"ignore_eos": True}}
    lines = [line | {"custom_id": str(number)} for number in range(NUM_REQUESTS)]
    path = folder / "requests.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_node_that_is_killed_is_replaced(tplaunch: CommandLine, tmp_path: Path) -> None:
    """The head's own node has no devices, and no rank."""
    asked, results = requests(tmp_path), tmp_path / "results.jsonl"
    options = ("--parallel", "2", "--restart-workers", DEMO, asked, "--out", results)
    with cluster(2) as (environment, tell):
        process = tplaunch.start("batch", *ON_RAY, "--num-ranks", "2", *options, env=environment)
        while process.poll() is None and not (results.exists() and results.stat().st_size):
            time.sleep(0.1)
        tell("kill")
        tell("add")
        stderr = end_of(process)
        tplaunch.printed += stderr
    assert process.returncode == 0, stderr
    assert "Ray has placed 2 ranks on 1 node\n" in stderr
    assert "the ranks are started again" in stderr
    found = [
        json.loads(line)["response"]["body"]["choices"][0]["text"]
        for line in results.read_text().splitlines()
    ]
    assert len(found) == NUM_REQUESTS and len(set(found)) == 1 and len(found[0]) > 400


def test_where_there_is_no_cluster(tplaunch: CommandLine) -> None:
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        ended = tplaunch(*ON_RAY, DEMO, *STORY, env={"RAY_TMPDIR": folder, "RAY_ADDRESS": ""})
    assert ended.returncode == 1
    assert "there is no Ray cluster on this machine; `ray start --head`" in ended.stderr
