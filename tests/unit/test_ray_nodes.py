"""How ranks are shared out over a Ray cluster's nodes, the options for it, and the process on each node."""

from __future__ import annotations

import argparse
import builtins
import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.drivers import REPOSITORY
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.ray_nodes import agent, cluster
from tplaunch.launcher.ray_nodes.agent import count_devices, devices_in_turn
from tplaunch.launcher.ray_nodes.options import RayOptions
from tplaunch.launcher.ray_nodes.sharing import share_out
from tplaunch.launcher.words import parse_words


@pytest.mark.parametrize(
    ("devices", "num_ranks", "shares"),
    [
        ({"a": 1, "b": 4, "c": 2}, 6, [("a", 1), ("b", 4), ("c", 1)]),
        ({"a": 1, "b": 4, "c": 2}, None, [("a", 1), ("b", 4), ("c", 2)]),
        ({"a": 4, "b": 4}, 3, [("a", 3)]),
        ({"a": 2, "b": 0, "c": 1}, 3, [("a", 2), ("c", 1)]),
        ({"b": 2, "c": 1}, None, [("a", 0), ("b", 2), ("c", 1)]),  # the head has none, and takes no part
        ({"a": 0, "b": 2}, 1, [("a", 0), ("b", 1)]),
    ],
)
def test_shares(devices: dict[str, int], num_ranks: int | None, shares: list[tuple[str, int]]) -> None:
    found = share_out(devices, "a", num_ranks)
    assert [(share.node, share.num_ranks) for share in found] == shares


def test_no_more_ranks_than_a_run_has() -> None:
    assert sum(share.num_ranks for share in share_out({"a": 50, "b": 50}, "a", None)) == 64


def test_what_cant_be_shared_out() -> None:
    with pytest.raises(UsageError, match="nodes have 3 devices"):
        share_out({"a": 1, "b": 2}, "a", 4)
    with pytest.raises(UsageError, match=r"none of the Ray cluster's 2 nodes has a device"):
        share_out({"a": 0, "b": 0}, "a", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_ranks": 2}, "--num-ranks goes with --engine ray"),
        ({"engine": "ray", "num_ranks": 0}, "--num-ranks 0"),
        ({"engine": "slurm"}, "--engine slurm"),
    ],
)
def test_options_that_cant_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        RayOptions(**options)
    assert words in str(caught.value)


def given(*words: str) -> argparse.Namespace:
    return parse_words(["--engine", "ray", "-m", "m.gguf", *words])


@pytest.mark.parametrize("words", [("--hosts", "2"), ("--listen", "1.2.3.4"), ("--insecure",)])
def test_ray_finds_the_hosts_by_itself(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="finds the hosts by itself"), cluster.placed_by_ray(given(*words)):
        pass


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"pip install 'tplaunch\[ray\]'"), cluster.placed_by_ray(given()):
        pass


def test_devices_in_turn() -> None:
    assert count_devices("numpy,numpy") == 2
    assert devices_in_turn("numpy", 3) == "numpy,numpy,numpy"
    assert devices_in_turn("numpy", 0) == "none"


def settings(head: str) -> dict[str, object]:
    return {"head": head, "secret": "ab" * 32, "devices": "numpy", "num_ranks": 1, "verbose": False}


def test_the_process_on_a_node_ends_with_its_actor() -> None:
    """No head is there; it waits for one until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", agent.MODULE],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(json.dumps(settings("127.0.0.1:9")) + "\n")
    process.stdin.flush()
    assert "joining 127.0.0.1:9" in process.stderr.readline()
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_the_actor_ends_its_process_in_order() -> None:
    actor = agent.NodeAgent(settings("127.0.0.1:9"))
    assert actor.processes()[1] != actor.processes()[0]
    assert actor.end() in (143, 1)
