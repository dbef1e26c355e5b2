"""Whatever a file says at any key that is read: its model has finite numbers, or is refused."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import load_builder
from tests.models import tensor_infos
from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.origin import TensorInfo, without_leading_ones
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.worker.step.rope_tables import rope_angles

Table = tuple[dict[str, Any], dict[str, TensorInfo]]
WRONG: tuple[Any, ...] = (
    *(True, -1, 0, 1, 3, 2**31, 2**63, math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1e-320, 1e12, 1e300),
    *("x", "", [], [0], [1, 2], [1e300] * 3, ["x"], [True, False], [math.nan], 5e11, 2e-12),
)


@pytest.fixture(scope="module")
def tables(shared_dir: Path) -> dict[str, Table]:
    """Metadata and tensors of a small model of every architecture."""
    found = {}
    for name, spec in load_builder(shared_dir).specs().items():
        metadata = {key: value for key, _, _, value in spec["kv"]}
        shapes = {tensor: without_leading_ones(tuple(shape)) for tensor, shape in spec["tensors"]}
        found[name] = ({**metadata, "general.architecture": spec["arch"]}, tensor_infos(shapes))
    return found


def keys_read(metadata: dict[str, Any], tensors: dict[str, TensorInfo]) -> set[str]:
    """The keys that reading the model asks for, whether the file has them or not."""
    asked: set[str] = set()

    class Noting(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return super().__contains__(key)

    with pytest.MonkeyPatch.context() as patch:

        def noting(
            self: MetadataReader, metadata: Mapping[str, Any], architecture: str, ignored: frozenset[str]
        ) -> None:
            plain(self, metadata, architecture, ignored)
            self._metadata = Noting(self._metadata)

        plain = MetadataReader.__init__
        patch.setattr(MetadataReader, "__init__", noting)
        model_spec(metadata, tensors)
    return asked


def numbers_of(value: Any) -> Iterator[float]:
    """All numbers in a spec."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, tuple | list):
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, int | float):
        yield value


def check_spec(spec: ModelSpec) -> None:
    assert all(math.isfinite(number) for number in numbers_of(spec))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rope in spec.ropes:
            assert all(map(math.isfinite, rope_angles(rope, None)))


def test_any_value_at_any_key_makes_a_model_or_a_sentence(tables: dict[str, Table]) -> None:
    num_tried = num_refused = 0
    for name, (metadata, tensors) in tables.items():
        num_blocks = metadata[f"{metadata['general.architecture']}.block_count"]
        of_layers = [[number] * num_blocks for number in (-1, 0, 2**40)]
        for key in sorted(keys_read(metadata, tensors)):
            for value in (*WRONG, *of_layers):
                num_tried += 1
                try:
                    spec = model_spec({**metadata, key: value}, tensors)
                    check_tensors(spec, tensors)
                    check_spec(spec)
                except ModelError as error:
                    num_refused += 1
                    assert 10 < len(str(error)) < 500
                except Exception as error:
                    raise AssertionError(f"{name}: {key} = {value!r}") from error
    assert num_tried > 10_000 and num_refused > num_tried / 2
