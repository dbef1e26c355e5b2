"""`tplaunch run` gives llama.cpp's greedy tokens, however the model is split and summed."""

import io
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.conftest import environment_with
from tests.drivers import FINDERS
from tests.patience import end_of

# Loads a model once and computes its prompts one behind another, each as greedy as `tplaunch run` here.
ALL_STORIES = """
import json, sys
from tplaunch import LLM, SamplingParams
model, options, stories = json.load(sys.stdin)
with LLM(model, **options) as llm:
    for story in stories:
        params = SamplingParams(temperature=0, max_tokens=len(story["tokens"]))
        (output,) = llm.generate(story["prompt"], params)
        (answer,) = output.outputs
        print(json.dumps({
            "prompt_tokens": output.prompt_token_ids,
            "tokens": answer.token_ids,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
        }))
"""


@pytest.fixture(scope="session")
def stories(shared_dir: Path) -> list[dict[str, Any]]:
    """llama.cpp's continuations of five prompts."""
    loaded: list[dict[str, Any]] = json.loads((shared_dir / "models/stories260K-greedy.json").read_text())
    return loaded


def generate(
    tplaunch: CommandLine, model: Path, expected: dict[str, Any], *options: str, **settings: Any
) -> dict[str, Any]:
    """The report of one greedy run of a prompt."""
    arguments = ("-p", expected["prompt"], "-n", str(len(expected["tokens"])), "--temperature", "0", "--json")
    result = tplaunch(*options, model, *arguments, check=True, **settings)
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["timings"]["decode_tokens_per_second"] > 0
    return report


def check(report: dict[str, Any], expected: dict[str, Any]) -> None:
    assert report["prompt_tokens"] == expected["prompt_tokens"]
    assert report["tokens"] == expected["tokens"]
    assert report["text"].removeprefix(" ") == expected["text"]
    assert report["finish_reason"] == "length"


def check_all(
    tplaunch: CommandLine,
    shared_dir: Path,
    stories: list[dict[str, Any]],
    options: dict[str, Any],
    **settings: Any,
) -> None:
    """Checks stories, all in one run: some drivers compile for a minute before the first one."""
    options = {**options, "validate": tplaunch.validate}
    told = json.dumps([str(shared_dir / "models/stories260K-f32.gguf"), options, stories])
    tplaunch.program, tplaunch.validate = (sys.executable, "-c", ALL_STORIES), False
    lines = tplaunch(input=told, check=True, **settings).stdout.splitlines()
    for line, expected in zip(lines, stories, strict=True):
        check(json.loads(line), expected)


@pytest.mark.parametrize("driver", FINDERS)
def test_every_driver(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]], driver: str
) -> None:
    check_all(tplaunch, shared_dir, stories, {"devices": "0,0"}, env=environment_with(FINDERS[driver]()))


@pytest.mark.parametrize("devices", ["0,1", "1,0,1"])
def test_two_vendors(
    tplaunch: CommandLine,
    shared_dir: Path,
    stories: list[dict[str, Any]],
    both_drivers_env: dict[str, str],
    devices: str,
) -> None:
    check_all(tplaunch, shared_dir, stories, {"devices": devices}, env=both_drivers_env)


@pytest.mark.parametrize(
    "devices", ["0", "0,0", "0,0,0", "0,0,0,0", "numpy", "numpy,numpy,numpy", "cpu", "cpu,cpu"]
)
def test_every_split(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]], devices: str
) -> None:
    check_all(tplaunch, shared_dir, stories, {"devices": devices})


@pytest.mark.parametrize("devices", ["0,0", "0,0,0", "0,0,0,0"])
def test_the_ring(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]], devices: str
) -> None:
    check_all(tplaunch, shared_dir, stories[1:3], {"devices": devices, "collective": "zmq-ring"})


@pytest.mark.parametrize(
    "options",
    [
        ("--devices", "0,0"),
        ("--devices", "numpy"),
        ("--devices", "0,0,0,0,0,0,0"),
        ("--devices", "0,0,0,0,0,0,0,0"),
        ("--devices", "0,0", "--tensor-split", "3,1"),
        ("--devices", "0,0,0", "--tensor-split", "1,0,2.5"),
        ("--devices", "0,numpy"),
        ("--devices", "0,cpu"),
        ("--devices", "cpu,numpy", "--cpu-threads", "3"),
        ("--devices", "0,0", "--staging"),
        ("--devices", "0,0", "--submit-then-wait"),
        ("--devices", "0,0,0", "--all-reduce", "two-phase", "--sums", "moved"),
        ("--devices", "0,0", "--all-reduce", "two-phase", "--staging", "--submit-then-wait"),
        ("--devices", "0,numpy,numpy", "--all-reduce", "two-phase", "--tensor-split", "1,0,2"),
        ("--devices", "numpy,numpy,numpy", "--all-reduce", "one-shot"),
        ("--devices", "0,0,0", "--collective", "zmq-ring", "--staging", "--sums", "moved"),
        ("--devices", "0,0", "--prefill-chunk", "3"),
        ("--devices", "0", "--kv-type", "f32"),
    ],
    ids=" ".join,
)
def test_other_ways(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]], options: tuple[str, ...]
) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    check(generate(tplaunch, model, stories[1], *options), stories[1])


@pytest.mark.parametrize(("devices", "story"), [("0,1,2", 0), ("2,0,1,0", 1)])
def test_all_drivers_together(
    tplaunch: CommandLine,
    shared_dir: Path,
    stories: list[dict[str, Any]],
    all_drivers_env: dict[str, str],
    devices: str,
    story: int,
) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    report = generate(tplaunch, model, stories[story], "--devices", devices, env=all_drivers_env)
    check(report, stories[story])


def test_quantised_weights_give_the_same_on_any_split(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]]
) -> None:
    """172 FFN columns do not fill blocks of 32, so this splits inside blocks."""
    model = shared_dir / "models/stories260K-q8_0.gguf"
    reference = generate(tplaunch, model, stories[0], "--devices", "numpy")["tokens"]
    for devices in ("0", "0,0", "0,0,0", "0,0,0,0"):
        assert generate(tplaunch, model, stories[0], "--devices", devices)["tokens"] == reference, devices


def test_a_quantised_cache_gives_the_same_on_any_split(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]]
) -> None:
    """Heads of 8 elements do not fill blocks of 32; with more ranks than KV heads some hold the same one."""
    model = shared_dir / "models/stories260K-f32.gguf"
    options = ("--kv-type", "q8_0")
    reference = generate(tplaunch, model, stories[0], "--devices", "numpy", *options)["tokens"]
    for devices in ("0", "0,0", "0,0,0,0,0", "0,0,0,0,0,0,0", "0,numpy"):
        found = generate(tplaunch, model, stories[0], "--devices", devices, *options)["tokens"]
        assert found == reference, devices


def test_a_prompt_as_tokens(tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]]) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    tokens = ",".join(map(str, stories[0]["prompt_tokens"]))
    options = ("--devices", "numpy", model, "--tokens", tokens, "-n", "20", "--temperature", "0", "--json")
    report = json.loads(tplaunch(*options, check=True).stdout)
    assert report["tokens"] == stories[0]["tokens"][:20]


def test_text_streams_from_standard_input(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]]
) -> None:
    """A prompt from a pipe: the text on standard output, and nothing on standard error."""
    options = (
        "--devices",
        "0,0",
        shared_dir / "models/stories260K-f32.gguf",
        "-n",
        "30",
        "--temperature",
        "0",
    )
    result = tplaunch(*options, input=stories[0]["prompt"], check=True)
    text = result.stdout.removeprefix(" ").removesuffix("\n")
    assert text and stories[0]["text"].startswith(text)
    assert result.stderr == ""


def test_a_folder_that_looks_like_the_project(
    tplaunch: CommandLine, shared_dir: Path, tmp_path: Path
) -> None:
    """Workers run the launcher's own code, whatever lies in the current folder; paths stay relative to it."""
    for name in ("worker", "coordinator", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (tmp_path / "model.gguf").symlink_to(shared_dir / "models/stories260K-f32.gguf")
    command = Path(sysconfig.get_path("scripts")) / "tplaunch"
    if not command.exists():
        pytest.skip("the console script is not installed")
    tplaunch.program = ["env", f"--chdir={tmp_path}", str(command)]
    tplaunch("--devices", "0,0", "model.gguf", "-p", "Once", "-n", "3", check=True)


def test_a_prompt_that_is_no_utf8(tplaunch: CommandLine, shared_dir: Path) -> None:
    options = ("--devices", "numpy", shared_dir / "models/stories260K-f32.gguf", "-n", "2")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    process = tplaunch.start(*options, env=environment)
    assert isinstance(process.stdin, io.TextIOWrapper)
    process.stdin.buffer.write(b"caf\xe9 \xe4\xb8\xad")
    stderr = end_of(process)
    assert process.returncode == 0, stderr


def test_verbose_shows_the_ranks_logs(tplaunch: CommandLine, shared_dir: Path) -> None:
    options = ("--devices", "0,0", shared_dir / "models/stories260K-f32.gguf", "-p", "Once", "-n", "2", "-v")
    result = tplaunch(*options, check=True)
    assert "[rank 0] " in result.stderr and "[rank 1] " in result.stderr


def test_the_same_seed_gives_the_same_text(tplaunch: CommandLine, shared_dir: Path) -> None:
    options = ("--devices", "numpy", shared_dir / "models/stories260K-f32.gguf", "-p", "Once", "-n", "40")
    seeds = ("7", "7", "8")
    texts = [tplaunch(*options, "--temperature", "1", "--seed", seed, check=True).stdout for seed in seeds]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_text_and_is_not_shown(tplaunch: CommandLine, shared_dir: Path) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    options = ("--devices", "numpy", model, "-p", "Once", "-n", "40", "--temperature", "0")
    whole = tplaunch(*options, check=True).stdout.removesuffix("\n")
    middle = len(whole) // 2
    stop = whole[middle : middle + 7]  # several tokens, which need not begin or end there
    shown = whole[: whole.index(stop)]
    assert tplaunch(*options, "--stop", stop, check=True).stdout == shown + "\n"
    report = json.loads(tplaunch(*options, "--stop", stop, "--json", check=True).stdout)
    assert (report["text"], report["finish_reason"]) == (shown, "stop")


def test_the_end_of_the_context_ends_the_text(tplaunch: CommandLine, shared_dir: Path) -> None:
    options = ("--devices", "0,0", shared_dir / "models/stories260K-f32.gguf", "-p", "Once upon a time")
    result = tplaunch(*options, "--context", "40", "--temperature", "0", "--ignore-eos", "--json", check=True)
    report = json.loads(result.stdout)
    assert report["finish_reason"] == "context"
    assert len(report["prompt_tokens"]) + len(report["tokens"]) == 40


def test_two_runs_side_by_side(
    tplaunch: CommandLine, shared_dir: Path, stories: list[dict[str, Any]]
) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    runs = []
    for story, collective in ((0, "shared-memory"), (1, "zmq-ring"), (2, "shared-memory")):
        arguments = ("-p", stories[story]["prompt"], "-n", "60", "--temperature", "0", "--json")
        runs.append(
            (story, tplaunch.start("--devices", "0,0", "--collective", collective, model, *arguments))
        )
    for story, process in runs:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["tokens"] == stories[story]["tokens"][:60]
