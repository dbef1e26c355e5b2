"""The demo tells the same whole story on any split and driver, and its file is what the README says of it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.story import fault_of
from tests.command_line import CommandLine
from tests.conftest import environment_with
from tests.drivers import FINDERS, REPOSITORY
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.header import read_gguf

MODEL = REPOSITORY / "examples/demo-stories.gguf"
PROMPT = "Once upon a time"


def tell(tplaunch: CommandLine, devices: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    options = ("--devices", devices, MODEL, "-p", PROMPT, "-n", "400", "--temperature", "0", "--json")
    report: dict[str, Any] = json.loads(tplaunch(*options, check=True, env=env).stdout)
    return report


def check(story: dict[str, Any], reference: dict[str, Any]) -> None:
    assert story["tokens"] == reference["tokens"]
    assert story["finish_reason"] == "stop"
    assert fault_of(PROMPT + story["text"]) is None


@pytest.fixture(scope="session")
def reference(device_cache: Path) -> Iterator[dict[str, Any]]:
    """The story in NumPy."""
    command_line = CommandLine(os.environ, device_cache)
    yield tell(command_line, "numpy")
    command_line.close()


@pytest.mark.parametrize("devices", ["0", "0,0,0,0", "cpu,cpu"])
def test_a_whole_story(tplaunch: CommandLine, reference: dict[str, Any], devices: str) -> None:
    check(tell(tplaunch, devices), reference)


@pytest.mark.parametrize("driver", FINDERS)
def test_a_whole_story_on_every_driver(tplaunch: CommandLine, reference: dict[str, Any], driver: str) -> None:
    check(tell(tplaunch, "0,0", environment_with(FINDERS[driver]())), reference)


def test_what_make_demo_runs_tells_it(tplaunch: CommandLine, reference: dict[str, Any]) -> None:
    if not (REPOSITORY / ".venv/bin/tplaunch").exists():
        pytest.skip("`make demo` runs what is in .venv, and there is none")
    tplaunch.program = ["bash", str(REPOSITORY / ".ci/demo.sh")]
    tplaunch.validate = False  # no option of the demo's
    result = tplaunch(check=True)
    assert result.stdout.endswith(f"\n{PROMPT}{reference['text']}\n")


def test_what_make_demo_runs_tells_it_on_processors_without_a_loader(
    tplaunch: CommandLine, reference: dict[str, Any], tmp_path: Path
) -> None:
    if not (REPOSITORY / ".venv/bin/tplaunch").exists():
        pytest.skip("`make demo` runs what is in .venv, and there is none")
    none = tmp_path / "ldconfig"  # that knows of no library
    none.write_text("#!/bin/sh\n")
    none.chmod(0o755)
    tplaunch.program = ["bash", str(REPOSITORY / ".ci/demo.sh")]
    tplaunch.validate = False
    result = tplaunch(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    assert "--devices cpu,cpu" in result.stdout
    assert result.stdout.endswith(f"\n{PROMPT}{reference['text']}\n")


def test_the_file_suits_every_weight_type_and_split() -> None:
    assert MODEL.stat().st_size <= 6_000_000
    file = read_gguf(MODEL)
    spec = model_spec(file.metadata, file.tensors)
    assert (spec.attentions[0].num_heads, spec.attentions[0].num_kv_heads) == (8, 4)
    assert spec.embedding_length % 256 == spec.feed_forwards[0].length % 256 == 0
    assert {tensor.type for tensor in file.tensors.values()} == {"F32", "Q8_0"}
