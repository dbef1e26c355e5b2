"""The demo model tells the same whole story on any split, and the file is what the README says of it."""

import json

import pytest

from tests.command_line import CommandLine
from tests.drivers import REPOSITORY
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.header import read_gguf

MODEL = REPOSITORY / "examples/demo-stories.gguf"


def tell(tplaunch: CommandLine, devices: str) -> dict[str, object]:
    options = (
        "--devices",
        devices,
        MODEL,
        "-p",
        "Once upon a time",
        "-n",
        "400",
        "--temperature",
        "0",
        "--json",
    )
    report: dict[str, object] = json.loads(tplaunch(*options, check=True).stdout)
    return report


@pytest.mark.parametrize("devices", ["0", "0,0", "0,0,0,0"])
def test_a_whole_story(tplaunch: CommandLine, devices: str) -> None:
    story, reference = tell(tplaunch, devices), tell(tplaunch, "cpu")
    assert story["tokens"] == reference["tokens"]
    assert story["finish_reason"] == "stop"
    assert str(story["text"]).endswith(".")


def test_the_file_suits_every_weight_type_and_split() -> None:
    assert MODEL.stat().st_size <= 6_000_000
    file = read_gguf(MODEL)
    spec = model_spec(file.metadata, file.tensors)
    assert (spec.attentions[0].num_heads, spec.attentions[0].num_kv_heads) == (8, 4)
    assert spec.embedding_length % 256 == spec.feed_forwards[0].length % 256 == 0
    assert {tensor.type for tensor in file.tensors.values()} == {"F32", "Q8_0"}
