"""A tensor of another shape than its kernel reads is refused before anything loads, or makes no difference.

Every kind of tensor of every architecture has its dimensions permuted, split, joined, dropped, ones added.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conformance.conftest import SEED, Reference
from tests.conformance.test_architectures import LIMITS, MODELS, logits_of
from tests.models import kind_of, open_model
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.origin import TensorInfo, without_leading_ones
from tplaunch.coordinator.gguf.parts import GgufModel
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.worker.numpy.device import NumpyDevice

Shape = tuple[int, ...]


def changed_shapes(shape: Shape) -> set[Shape]:
    """Other shapes, rows first, as reading a header gives them: without leading ones."""
    found = {*itertools.permutations(shape)}
    for place in range(len(shape)):
        before, length, after = shape[:place], shape[place], shape[place + 1 :]
        found |= {(*before, *after), (*before, 1, length, *after), (*before, length, 1, *after)}
        if after:
            found.add((*before, length * after[0], *after[1:]))
        if length % 2 == 0:
            found |= {(*before, 2, length // 2, *after), (*before, length // 2, 2, *after)}
    found |= {(1, *shape, 1), (*shape, 1, 1)}
    read = {without_leading_ones(changed or (1,)) for changed in found if len(changed) <= 4}
    return read - {shape}


def changes_of(file: GgufModel) -> Iterator[dict[str, Shape]]:
    """One tensor of each kind, and all of a kind."""
    kinds: dict[str, list[TensorInfo]] = {}
    for tensor in file.tensors.values():
        kinds.setdefault(kind_of(tensor.name), []).append(tensor)
    for alike in kinds.values():
        for shape in changed_shapes(alike[0].shape):
            yield {alike[0].name: shape}
            if len(alike) > 1:
                yield {tensor.name: shape for tensor in alike if tensor.shape == alike[0].shape}


def is_refused(file: GgufModel, changes: dict[str, Shape]) -> bool:
    tensors = {
        **file.tensors,
        **{name: dataclasses.replace(file.tensors[name], shape=shape) for name, shape in changes.items()},
    }
    try:
        check_tensors(model_spec(file.metadata, tensors), tensors)
    except ModelError as error:
        assert 10 < len(str(error)) < 500
        return True
    return False


def write_changed(
    builder: ModuleType, name: str, changes: dict[str, Shape], path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The same numbers in a file that says other shapes."""
    weight = builder.weight

    def reshaped(tensor: str, shape: list[int], seed: int) -> Any:
        return weight(tensor, shape, seed).reshape(changes.get(tensor, shape))

    with monkeypatch.context() as patch:
        patch.setattr(builder, "weight", reshaped)
        builder.write(builder.specs()[name], path, SEED)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_other_shapes_are_refused_or_mean_the_same(
    name: str,
    builder: ModuleType,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, spec = open_model(build(name))
    changes = [change for change in changes_of(file) if not change.keys() <= set(spec.unused_tensors)]
    taken = [change for change in changes if not is_refused(file, change)]
    assert len(changes) > 100 and len(taken) < len(changes) / 10
    for change in taken:
        for tensor, shape in change.items():
            assert math.prod(shape) == math.prod(file.tensors[tensor].shape), "numbers are missing"
        path = write_changed(builder, name, change, tmp_path / "changed.gguf", monkeypatch)
        for num_ranks in (1, 2):
            expected, found = (
                logits_of(each, reference_of(name), NumpyDevice, LIMITS, num_ranks)
                for each in (build(name), path)
            )
            np.testing.assert_array_equal(found, expected, err_msg=f"{change} on {num_ranks} ranks")
