"""The commands that evaluate a model, with real ranks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import tplaunch as package
from tests.command_line import CommandLine

DEMO = Path(package.__file__).parent / "demo-stories.gguf"
STORY = (
    "Once upon a time, there lived a little girl named Lily. She lived in a small house near the forest."
    " One day, she went to the park with her brother Tom. They saw a big dog, and the dog was sad. "
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(STORY * 6)
    return path


def measured(tplaunch: CommandLine, *words: str | Path) -> Any:
    return json.loads(tplaunch("perplexity", "--json", *words, check=True).stdout)


def test_perplexity(tplaunch: CommandLine, text: Path) -> None:
    options = ("--devices", "cpu,cpu", "--context", "64", "--chunks", "2")
    found = measured(tplaunch, *options, "--demo", text)
    assert (found["context"], found["chunks"], found["scored_tokens"]) == (64, 2, 62)
    assert 1 < found["perplexity"]["value"] < 100 and found["perplexity"]["stderr"] > 0
    manifest = found["manifest"]
    assert manifest["sha256"] == [hashlib.sha256(DEMO.read_bytes()).hexdigest()]
    assert manifest["devices"] == ["cpu (NumPy)"] * 2 and manifest["tplaunch"] == package.__version__
    assert manifest["options"]["text"] == "text.txt" and manifest["options"]["kv_type"] == "f16"
    shown = tplaunch("perplexity", *options, text, DEMO, check=True).stdout  # in the other order
    running, final, line = shown.splitlines()
    assert running.startswith("[1]") and running.count(",") == 2
    assert final.startswith(f"Final estimate: PPL = {found['perplexity']['value']:.4f} +/- ")
    assert json.loads(line.removeprefix("manifest: ")) == manifest


def test_a_base_file_is_written_and_compared_with(tplaunch: CommandLine, text: Path, tmp_path: Path) -> None:
    base, options = tmp_path / "base.kld", ("--demo", "--devices", "cpu")
    written = measured(tplaunch, *options, "--context", "64", "--kl-base", base, text)
    found = measured(tplaunch, *options, "--kl-base", base, "--kv-type", "q8_0")
    assert (found["context"], found["chunks"]) == (64, written["chunks"])
    assert found["base_perplexity"]["value"] == pytest.approx(written["perplexity"]["value"], rel=0.1)
    assert 0 < found["mean_kl_divergence"]["value"] < 0.1 and found["same_top"]["value"] > 0.9
    shown = tplaunch("perplexity", *options, "--kl-base", base, text, "--chunks", "1", check=True).stdout
    assert "same top token: 100.000 +/- 0.000 %" in shown and "mean KLD:       " in shown
    other = tmp_path / "other.txt"
    other.write_text("The dog was sad. " * 40)
    refused = tplaunch("perplexity", *options, "--kl-base", base, other)
    assert refused.returncode == 2 and "has other tokens than" in refused.stderr
    refused = tplaunch("perplexity", *options, "--kl-base", base, "--context", "32")
    assert refused.returncode == 2 and "give --context 64" in refused.stderr
    base.write_bytes(base.read_bytes()[:-2])
    refused = tplaunch("perplexity", *options, "--kl-base", base)
    assert refused.returncode == 2 and "it is cut off" in refused.stderr


def test_ways_are_compared(tplaunch: CommandLine, text: Path) -> None:
    ways = ("--compare", "cpu", "--compare", "cpu", "--compare", "cpu,cpu --kv-type q8_0")
    options = ("--demo", "--context", "64", "--chunks", "2")
    found = measured(tplaunch, *options, *ways, text)
    first, same, other = found["ways"]
    assert first["way"] == "cpu" and "same_top" not in first
    assert same["mean_kl_divergence"] == {"value": 0, "stderr": 0} and same["same_top"]["value"] == 1
    assert other["mean_kl_divergence"]["value"] > 0 and other["manifest"]["options"]["kv_type"] == "q8_0"
    shown = tplaunch("perplexity", *options, *ways, text, check=True).stdout.splitlines()
    assert [line for line in shown if "against cpu" in line] and len(shown) > 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--demo",), "perplexity takes a model and a text"),
        (("--demo", "nothing.txt"), "nothing.txt can't be read: No such file"),
        (("nothing.txt",), "perplexity takes a model and a text"),
        (("nothing.gguf", "README.md"), "nothing.gguf: no such file"),
        (("--demo", "a.txt", "b.txt"), "unrecognized arguments: b.txt"),
        (("-m", "m.gguf", "--demo", "a.txt"), "the model is given twice"),
        (("--demo", "README.md", "--compare", "cpu", "--compare", "cpu --context 64"), "the same context"),
        (("--demo", "LICENSE", "--context", "500"), "needs 1000; take a longer text, or --context"),
        (("--demo", "README.md", "--kl-base", "/nothing/there"), "there is no folder /nothing"),
    ],
)
def test_what_can_not_be_measured(tplaunch: CommandLine, words: tuple[str, ...], sentence: str) -> None:
    done = tplaunch("perplexity", "--devices", "cpu", *words)
    assert done.returncode == 2 and sentence in done.stderr and not done.stdout


def test_the_task_in_the_examples(tplaunch: CommandLine, tmp_path: Path) -> None:
    task, out = "examples/stories-task.jsonl", tmp_path / "results.jsonl"
    options = ("eval", "--demo", "--devices", "cpu,cpu")
    found = json.loads(tplaunch(*options, "--json", "--out", out, task, check=True).stdout)
    assert found["acc"]["value"] > 0.7 and found["exact_match"]["value"] > 0.7  # by chance 0.25 and 0
    assert found["acc"]["stderr"] > 0 and found["manifest"]["options"]["task"] == "stories-task.jsonl"
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["line"] for one in results] == list(range(1, found["items"] + 1))
    chosen = [one["acc"] for one in results if "acc" in one]
    assert sum(chosen) / len(chosen) == pytest.approx(found["acc"]["value"])
    shown = tplaunch(*options, "--limit", "4", task, check=True).stdout
    assert shown.startswith("items       4\nacc         ") and "manifest: {" in shown
    refused = tplaunch(*options, "--out", "/nothing/there", task)
    assert refused.returncode == 2 and "there is no folder /nothing" in refused.stderr
    refused = tplaunch(*options)
    assert refused.returncode == 2 and "eval takes a model and a task" in refused.stderr
