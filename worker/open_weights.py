"""Decides where a worker's weights come from: the model's file, or, for measurements, nowhere."""

from __future__ import annotations

from pathlib import Path

from coordinator.messages import Load
from worker.model_file import ModelFile
from worker.random_weights import RandomWeights
from worker.weight_source import WeightSource


def open_weights(load: Load) -> WeightSource:
    """The source that the coordinator asks for. Raises OSError for a file that can't be read."""
    if not load.model_path:
        return RandomWeights(load.tensors)
    return ModelFile(Path(load.model_path), load.header_bytes)
