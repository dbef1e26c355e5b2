"""The commands that evaluate a model, with real ranks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
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
    options = ("--devices", "numpy,numpy", "--context", "64", "--chunks", "2")
    found = measured(tplaunch, *options, "--demo", text)
    assert (found["context"], found["chunks"], found["scored_tokens"]) == (64, 2, 62)
    assert 1 < found["perplexity"]["value"] < 100 and found["perplexity"]["stderr"] > 0
    manifest = found["manifest"]
    assert manifest["sha256"] == [hashlib.sha256(DEMO.read_bytes()).hexdigest()]
    assert manifest["devices"] == ["numpy"] * 2 and manifest["tplaunch"] == package.__version__
    assert manifest["options"]["text"] == "text.txt" and manifest["options"]["kv_type"] == "f16"
    shown = tplaunch("perplexity", *options, text, DEMO, check=True).stdout  # in the other order
    running, final, line = shown.splitlines()
    assert running.startswith("[1]") and running.count(",") == 2
    assert final.startswith(f"Final estimate: PPL = {found['perplexity']['value']:.4f} +/- ")
    assert json.loads(line.removeprefix("manifest: ")) == manifest


def test_a_base_file_is_written_and_compared_with(tplaunch: CommandLine, text: Path, tmp_path: Path) -> None:
    base, options = tmp_path / "base.kld", ("--demo", "--devices", "numpy")
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
    ways = ("--compare", "numpy", "--compare", "numpy", "--compare", "numpy,numpy --kv-type q8_0")
    options = ("--demo", "--context", "64", "--chunks", "2")
    found = measured(tplaunch, *options, *ways, text)
    first, same, other = found["ways"]
    assert first["way"] == "numpy" and "same_top" not in first
    assert same["mean_kl_divergence"] == {"value": 0, "stderr": 0} and same["same_top"]["value"] == 1
    assert other["mean_kl_divergence"]["value"] > 0 and other["manifest"]["options"]["kv_type"] == "q8_0"
    shown = tplaunch("perplexity", *options, *ways, text, check=True).stdout.splitlines()
    assert [line for line in shown if "against numpy" in line] and len(shown) > 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--demo",), "perplexity takes a text beside the model"),
        (("--demo", "nothing.txt"), "nothing.txt can't be read: No such file"),
        (("nothing.txt",), "perplexity takes a text beside the model"),
        (("nothing.gguf", "README.md"), "nothing.gguf: no such file"),
        (("--demo", "a.txt", "b.txt"), "unrecognized arguments: b.txt"),
        (("-m", "m.gguf", "--demo", "a.txt"), "the model is given twice"),
        (
            ("--demo", "README.md", "--compare", "numpy", "--compare", "numpy --context 64"),
            "the same context",
        ),
        (("--demo", "LICENSE", "--context", "500"), "needs 1000; take a longer text, or --context"),
        (("--demo", "README.md", "--kl-base", "/nothing/there"), "there is no folder /nothing"),
    ],
)
def test_what_can_not_be_measured(tplaunch: CommandLine, words: tuple[str, ...], sentence: str) -> None:
    done = tplaunch("perplexity", "--devices", "numpy", *words)
    assert done.returncode == 2 and sentence in done.stderr and not done.stdout


def test_the_task_in_the_examples(tplaunch: CommandLine, tmp_path: Path) -> None:
    task, out = "examples/stories-task.jsonl", tmp_path / "results.jsonl"
    options = ("eval", "--demo", "--devices", "numpy,numpy")
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
    assert refused.returncode == 2 and "eval takes a task beside the model" in refused.stderr


def batch_file(path: Path, count: int, tokens: int = 24) -> Path:
    """Writes requests of both kinds, greedy and sampled, and returns the path."""
    prompts = ("Once upon a time", "The little fox", "One day,", "Tom and Lily")
    with path.open("w") as file:
        for index in range(count):
            body = {"prompt": f"{prompts[index % 4]}", "max_tokens": tokens, "temperature": index % 2}
            request = {"custom_id": f"request {index}", "method": "POST", "url": "/v1/completions"}
            print(json.dumps({**request, "body": body}), file=file)
    return path


def texts_of(path: Path) -> dict[str, str]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    texts = {one["custom_id"]: one["response"]["body"]["choices"][0]["text"] for one in found}
    assert len(texts) == len(found)
    return texts


def test_a_batch_that_is_killed_is_gone_on_with(tplaunch: CommandLine, tmp_path: Path) -> None:
    """After SIGKILL no line is lost or there twice, and all texts are those of a run that went through."""
    requests, out, whole = batch_file(tmp_path / "requests.jsonl", 32, 60), tmp_path / "out", tmp_path / "w"
    options = ("batch", "--demo", "--devices", "numpy,numpy", "--seed", "3", "--parallel", "4")
    found = json.loads(tplaunch(*options, "--json", requests, "--out", whole, check=True).stdout)
    assert (found["requests"], found["failed"], found["before"]) == (32, 0, 0)
    assert found["manifest"]["seed"] == 3 and found["completion_tokens"] > 32 * 20
    process = tplaunch.start(*options, requests, "--out", out)
    while not out.exists() or out.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.kill()
    process.communicate()
    for left in (tplaunch.folder / "tmp").iterdir():  # as nobody could clean up
        shutil.rmtree(left)
    before = out.read_bytes()
    assert 5 <= before.count(b"\n") < 32
    done = tplaunch(*options, requests, "--out", out, check=True)
    assert "of 32 requests have their results already" in done.stderr
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert texts_of(out) == texts_of(whole)
    again = tplaunch(*options, requests, "--out", out, check=True)
    assert again.stdout == "0 of 32 requests were left to answer\n"


def test_requests_of_a_batch_that_fail(tplaunch: CommandLine, tmp_path: Path) -> None:
    requests, out = batch_file(tmp_path / "requests.jsonl", 2), tmp_path / "out"
    with requests.open("a") as file:
        file.write('{\n{"custom_id": "x", "url": "/v1/completions", "body": {"prompt": 5}}\n')
        file.write('{"custom_id": "y", "url": "/v1/completions", "body": {"prompt": "a", "model": "gpt"}}\n')
    options = ("batch", "--demo", "--devices", "numpy", requests, "--out", out)
    done = tplaunch(*options, "--model-name", "gpt")
    assert done.returncode == 1 and done.stdout.startswith("5 of 5 requests answered, 2 of them failed")
    found = {one["custom_id"]: one for one in map(json.loads, out.read_text().splitlines())}
    assert found["x"]["response"]["status_code"] == 400 and found["y"]["response"]["status_code"] == 200
    assert found[None]["error"]["line"] == 3
    batch_file(requests, 1)
    refused = tplaunch(*options)
    assert refused.returncode == 2 and "has results of other requests" in refused.stderr
    refused = tplaunch(*options[:-2])
    assert refused.returncode == 2 and "batch takes requests and a place" in refused.stderr
