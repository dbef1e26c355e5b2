"""`tplaunch tune`, and what runs make of the measurements in the user's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.models import write_llama
from tplaunch.coordinator.options import WAITINGS

RUN = ("--devices", "0,0", "--tokens", "1,2,3", "-n", "3", "--temperature", "0", "--json", "-v")

MAX_STARTS = 6  # until everything is measured


@pytest.fixture
def cache(tmp_path: Path, device_cache: Path) -> dict[str, str]:
    """An environment with an empty cache; the driver keeps its own in another folder."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MESA_SHADER_CACHE_DIR": str(device_cache)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_llama(path, types={"ffn_up.weight": "Q8_0"})
    return path


def cache_files(cache: dict[str, str]) -> list[Path]:
    """The files of devices, without those of ranks that wait for each other."""
    found = Path(cache["XDG_CACHE_HOME"]).rglob("*.json")
    return [path for path in found if "name" in json.loads(path.read_text())["device"]]


def tokens(tplaunch: CommandLine, model: Path, cache: dict[str, str], *options: str) -> tuple[Any, str]:
    """Returns the tokens of a run, and the log of its workers."""
    done = tplaunch(*RUN, *options, model, env=cache, check=True)
    return json.loads(done.stdout)["tokens"], done.stderr


def test_tuning_shows_and_keeps_what_it_found(tplaunch: CommandLine, cache: dict[str, str]) -> None:
    arguments = ("tune", "--devices", "0,0", "--shape", "tiny", "--type", "q4_0")
    (found,) = json.loads(tplaunch(*arguments, "--json", env=cache, check=True).stdout)["devices"]
    assert [found["file"]] == list(map(str, cache_files(cache)))
    names = [row["name"] for row in found["measurements"]]
    products = ["matvec2_q4_0", "matvec4_q4_0", "matvec_q4_0 small"]
    assert names == ["attention_f16_3", "attention_f16_4", *products, "submission", "tiled_q4_0"]
    for row in found["measurements"]:
        assert row["chosen"] in row["seconds"] and min(row["seconds"].values()) > 0
    kept = json.loads(Path(found["file"]).read_text())["measurements"]
    assert kept.items() >= {row["name"]: row["seconds"] for row in found["measurements"]}.items()
    assert kept["weights per second"] == {"matrix-vector": found["weights_per_second"]}

    table = tplaunch(*arguments, env=cache, check=True).stdout
    assert all(text in table for text in (*names, found["device"], found["file"], "chosen", "plain "))


def test_a_model_file_can_be_tuned(tplaunch: CommandLine, model: Path, cache: dict[str, str]) -> None:
    (found,) = json.loads(tplaunch("tune", "--devices", "0", "--json", model, env=cache, check=True).stdout)[
        "devices"
    ]
    assert "matvec_q8_0 small" in {row["name"] for row in found["measurements"]}


def test_the_first_start_measures_and_the_next_one_need_not(
    tplaunch: CommandLine, model: Path, cache: dict[str, str]
) -> None:
    first, log = tokens(tplaunch, model, cache)
    assert "measured on" in log and len(cache_files(cache)) == 1
    for _ in range(MAX_STARTS):  # a start does without what it has no time to check and to measure
        again, log = tokens(tplaunch, model, cache)
        assert again == first
        if "measured on" not in log:
            break
    assert "measured on" not in log
    (path,) = cache_files(cache)
    path.write_text("{")
    assert tokens(tplaunch, model, cache)[0] == first


def test_a_cache_that_can_not_be_written_is_done_without(
    tplaunch: CommandLine, model: Path, cache: dict[str, str]
) -> None:
    expected, _ = tokens(tplaunch, model, cache)
    found, log = tokens(tplaunch, model, {**cache, "XDG_CACHE_HOME": "/dev/null"})
    assert found == expected and "what was measured is not kept" in log


def test_nothing_depends_on_what_was_chosen(
    tplaunch: CommandLine, model: Path, cache: dict[str, str]
) -> None:
    """Every other choice than that of the first start, and no choice at all."""
    expected, _ = tokens(tplaunch, model, cache)
    (path,) = cache_files(cache)
    content = json.loads(path.read_text())
    for last in (True, False):
        for seconds in content["measurements"].values():
            names = list(seconds)
            seconds.update(dict.fromkeys(names, 1.0), **{names[-1 if last else 0]: 0.1})
        path.write_text(json.dumps(content))
        assert tokens(tplaunch, model, cache)[0] == expected
    assert tokens(tplaunch, model, cache, "--without", "int64", "--submit-then-wait")[0] == expected
    assert tokens(tplaunch, model, cache, "--submit-ahead")[0] == expected


@pytest.mark.parametrize("way", WAITINGS)
def test_tokens_depend_on_no_way_to_wait(
    tplaunch: CommandLine, model: Path, cache: dict[str, str], way: str
) -> None:
    """Devices exchange among themselves where each rank has a core; elsewhere a run that is to says why."""
    expected, _ = tokens(tplaunch, model, cache, "--waiting", "block")
    if way == "device" and len(os.sched_getaffinity(0)) < 2:
        done = tplaunch(*RUN, "--waiting", way, model, env=cache)
        assert done.returncode == 1 and "--waiting device: ranks share cores" in done.stderr
        return
    found, log = tokens(tplaunch, model, cache, "--waiting", way)
    assert found == expected
    assert ("devices exchange by themselves" in log) == (way == "device") or way == "auto"


def test_ranks_that_share_a_core_never_exchange_by_their_devices(
    tplaunch: CommandLine, model: Path, cache: dict[str, str]
) -> None:
    many = ",".join(["0"] * (len(os.sched_getaffinity(0)) + 1))
    done = tplaunch("--devices", many, *RUN[2:], "--waiting", "device", model, env=cache)
    assert done.returncode == 1 and "--waiting device: ranks share cores; leave it out" in done.stderr
    assert "ranks share cores" in tplaunch("--devices", many, *RUN[2:], model, env=cache, check=True).stderr


def test_more_than_two_ranks_measure_how_they_add_up(tplaunch: CommandLine, cache: dict[str, str]) -> None:
    arguments = ("tune", "--devices", "0,numpy,0", "--shape", "tiny", "--type", "q8_0")
    ranks = json.loads(tplaunch(*arguments, "--json", env=cache, check=True).stdout)["ranks"]
    assert len(ranks["devices"]) == 3
    largest = ranks["measurements"][0]
    assert largest["seconds"].keys() == {"one-shot", "two-phase"} and largest["chosen"] in largest["seconds"]
    kept = json.loads(Path(ranks["file"]).read_text())["measurements"]
    assert kept == {row["name"]: row["seconds"] for row in ranks["measurements"]}
    assert "one-shot" in tplaunch(*arguments, env=cache, check=True).stdout
