"""Decides where a worker's weights come from: the model's files, or, for measurements, nowhere."""

from __future__ import annotations

from tplaunch.coordinator.messages import Load
from tplaunch.worker.weights.model_file import ModelFile
from tplaunch.worker.weights.random_weights import RandomWeights
from tplaunch.worker.weights.source import WeightSource


def open_weights(load: Load) -> WeightSource:
    """The source that the coordinator asks for. Raises OSError for a file that can't be read."""
    if not load.origin.parts:
        return RandomWeights(load.tensors)
    return ModelFile(load.origin.parts)
