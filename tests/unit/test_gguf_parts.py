"""Models of several files: they compute what one file does, and what does not belong together is named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import SPEC, LocalEngine
from tests.split_files import Split, write_part
from tplaunch.coordinator.gguf.header import GgufError, read_gguf
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.serving.text_logits import all_logits

TOKENS = [1, 5, 47, 0, 9, 9, 23]


@pytest.mark.parametrize(("count", "first"), [(2, 1), (3, 0), (5, 4)])
@pytest.mark.parametrize("weights", [[1], [2, 0, 1]], ids=str)
def test_parts_compute_what_the_whole_does(
    tmp_path: Path, count: int, first: int, weights: list[float]
) -> None:
    """Also where the first part holds no tensor, and whichever part is named."""
    split = Split(tmp_path, count, first)
    expected = all_logits(LocalEngine(split.whole, weights), TOKENS)
    for number in (0, count - 1):
        found = all_logits(LocalEngine(split.path(number), weights), TOKENS)
        np.testing.assert_array_equal(found, expected)


def test_every_part_is_described(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    model = read_model(split.path(1))
    assert [part.path for part in model.origin.parts] == [str(split.path(number)) for number in range(3)]
    assert [part.header_bytes for part in model.origin.parts] == [
        read_gguf(split.path(number)).header_bytes for number in range(3)
    ]
    for number in range(3):
        tensors = [tensor for tensor in model.tensors.values() if tensor.part == number]
        assert [tensor.name for tensor in tensors] == split.held(number)
    assert model.metadata["llama.block_count"] == SPEC.num_layers


def test_the_hash_covers_every_part(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    before = read_model(split.path(0)).origin.model_hash
    assert before == read_model(split.path(2)).origin.model_hash
    with split.path(2).open("ab") as file:
        file.write(b"\0" * 32)
    assert read_model(split.path(0)).origin.model_hash != before


@pytest.mark.parametrize("count", [0, 1])
def test_a_count_of_one_part_is_a_whole_model(tmp_path: Path, count: int) -> None:
    """Files that were joined again say 0."""
    split = Split(tmp_path, 2)
    joined = tmp_path / "joined.gguf"
    keys = {"split.no": 0, "split.count": count, "split.tensors.count": len(split.names)}
    write_part(joined, split.whole, split.names, keys, metadata=True)
    assert read_model(joined).tensors.keys() == set(split.names)


def refusal(path: Path) -> str:
    with pytest.raises(GgufError) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    split = Split(tmp_path, 4)
    split.path(2).unlink()
    for number in (0, 1, 3):
        assert refusal(split.path(number)) == (
            f"{split.path(2)} is missing: the model is split over 4 files, and all are needed"
        )


@pytest.mark.parametrize("name", ["part2.gguf", "m-00002-of-00004.gguf", "m-2-of-3.gguf"])
def test_names_that_lead_to_no_other_part(tmp_path: Path, name: str) -> None:
    split = Split(tmp_path, 3)
    renamed = split.path(1).rename(tmp_path / name)
    assert refusal(renamed) == (
        f"{renamed} is one part of a model of 3 files, but is not named like one: its name should end in"
        " -00002-of-00003.gguf, and so should those of the others"
    )


def test_parts_in_the_wrong_order(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    aside = split.path(1).rename(tmp_path / "aside")
    split.path(2).rename(split.path(1))
    aside.rename(split.path(2))
    assert refusal(split.path(0)) == f"{split.path(1)} holds part 3 of 3, but is named part 2 of 3"


def test_a_part_of_another_number_of_parts(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    split.write(2, split.held(2), count=4)
    assert refusal(split.path(0)) == f"{split.path(2)} holds part 3 of 4, but is named part 3 of 3"
    split.write(2, split.held(2), no=None, count=None)
    assert "split.no is None; a count is needed" in refusal(split.path(0))


def test_parts_of_other_models(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    held = split.held(2)
    split.write(2, held, **{"tensors.count": 99})
    assert refusal(split.path(0)) == (
        f"{split.path(2)} is a part of another model than m-00001-of-00003.gguf: split.tensors.count is 99,"
        f" not {len(split.names)}"
    )
    keys = {"split.no": 2, "split.count": 3, "split.tensors.count": len(split.names), "llama.block_count": 7}
    write_part(split.path(2), split.whole, held, keys)
    assert refusal(split.path(0)).endswith(f"llama.block_count is 7, not {SPEC.num_layers}")


def test_parts_with_too_few_and_too_many_tensors(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    held = split.held(1)
    split.write(1, held[:-1])
    assert refusal(split.path(0)) == (
        f"{split.path(0)} says that the model has {len(split.names)} tensors, but its 3 files hold"
        f" {len(split.names) - 1}: they are not all parts of one model"
    )
    split.write(1, [split.names[0], *held[1:]])
    assert refusal(split.path(0)) == (
        f"the tensor {split.names[0]!r} stands in {split.path(0)} and in {split.path(1)}"
    )


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    split.path(1).write_bytes(split.path(1).read_bytes()[:-64])
    assert str(split.path(1)) in refusal(split.path(0)) and "truncated" in refusal(split.path(0))
    split.path(2).write_bytes(b"GGUF" + struct.pack(">I", 3) + b"\0" * 64)
    split.path(1).write_bytes(b"text" * 99)
    assert f"{split.path(1)} is not a GGUF file" in refusal(split.path(0))


@pytest.mark.parametrize("value", [True, -1, 1.5, "3", ["x" * 1000]], ids=str)
def test_counts_that_are_none(tmp_path: Path, value: Any) -> None:
    split = Split(tmp_path, 2)
    split.write(0, split.held(0), count=value)
    assert "split.count is " in refusal(split.path(0)) and len(refusal(split.path(0))) < 300
