"""Where weights come from: the model's file, or, for measurements, nowhere. Decided here, and only here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.messages import Load
from coordinator.model import TensorInfo
from coordinator.plan import padded
from worker.formats import FORMATS

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class WeightSource(ABC):
    """Gives a model's tensors as the bytes that a GGUF file has."""

    model_hash: str  # tells the coordinator whether this is the model that it means

    @abstractmethod
    def rows(self, tensor: TensorInfo) -> Bytes:
        """The whole tensor as [rows, row bytes], read-only and not copied."""

    def floats(self, tensor: TensorInfo, rows: npt.NDArray[np.int32]) -> Floats:
        """The given rows as float32 [rows, columns filled up with zeros to whole tiles]."""
        columns = padded(tensor.columns)
        planes = FORMATS[tensor.type].repack(self.rows(tensor)[rows], columns)
        return FORMATS[tensor.type].dequantize(planes, len(rows), columns)


def open_weights(load: Load) -> WeightSource:
    """The source that the coordinator asks for. Raises OSError for a file that can't be read."""
    if not load.model_path:
        from worker.random_weights import RandomWeights

        return RandomWeights(load.tensors)
    from worker.model_file import ModelFile

    return ModelFile(Path(load.model_path), load.header_bytes)
