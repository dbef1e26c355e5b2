"""Decides where a worker's weights come from: the model's files, or, for measurements, nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tplaunch.coordinator.messages import Load
from tplaunch.worker.weights.model_file import ModelFile
from tplaunch.worker.weights.random_weights import RandomWeights
from tplaunch.worker.weights.source import WeightSource


def open_weights(load: Load, files: Sequence[str] | None = None) -> WeightSource:
    """The source that the coordinator asks for. Raises OSError for a file that can't be read.

    files: the model's on this host, by which those that a coordinator on another host names are replaced.
    """
    parts = load.origin.parts
    if not parts:
        return RandomWeights(load.tensors)
    if files is None:
        return ModelFile(parts)
    if len(files) != len(parts):
        raise ValueError(f"the model has {len(parts)} files, but this host found {len(files)}")
    return ModelFile([replace(part, path=file) for part, file in zip(parts, files, strict=True)])
