"""With --restart-workers a lost host may come back: requests go on from their tokens, twice in a row."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import DEMO, WAITS, make_key, start_head, start_joiner

NUM_REQUESTS, NUM_TOKENS = 4, 60


def write_requests(path: Path) -> None:
    lines = [
        {
            "custom_id": f"story-{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": "demo-stories",
                "prompt": f"Once upon a time, {number}",
                "max_tokens": NUM_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
            },
        }
        for number in range(NUM_REQUESTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def texts(path: Path) -> dict[str, str]:
    """The texts in a file of results, by request."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in lines}


def lines_come(path: Path, count: int) -> None:
    """Waits until a file of results has so many lines."""
    deadline = time.monotonic() + WAITS
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"no {count} results within {WAITS} s"
        time.sleep(0.05)


def test_requests_go_on_where_a_worker_dies_and_then_its_whole_host(hosts: MakeHosts, tmp_path: Path) -> None:
    head_host, first, second = hosts(3)
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    write_requests(requests)
    head_host.tplaunch("batch", "--devices", "cpu", DEMO, requests, "--out", tmp_path / "alone", check=True)
    key = make_key(head_host, tmp_path)
    head = start_head(head_host, key, "batch", "--restart-workers", "--parallel", "1", requests, "--out", out)
    joiner = start_joiner(first, head)
    lines_come(out, 1)
    (worker,) = [process for process in first.tplaunch.living_processes() if "--rank=1" in process.cmdline()]
    worker.kill()
    head.stderr.wait_for("host 1 .*rank 1 .*killed by SIGKILL.*started again", WAITS)
    joiner.stderr.wait_for("(?s)running rank 1.*running rank 1", WAITS)
    lines_come(out, 2)
    joiner.send_signal(signal.SIGKILL)
    assert joiner.wait(20) == -signal.SIGKILL
    another = start_joiner(second, head)  # before the head can know that there is a place for it
    another.stderr.wait_for("running rank 1", WAITS)
    assert head.wait(WAITS) == 0, head.text
    assert texts(out) == texts(tmp_path / "alone")
    assert another.wait(WAITS) == 0
    assert head.text.count("the ranks are started again") == 2
