"""The source of weights, as the rest of a worker sees it: tensors as the bytes of a GGUF file."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.worker.formats import FORMATS

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class WeightSource(ABC):
    """Gives a model's tensors as the bytes that a GGUF file has."""

    model_hash: str  # tells the coordinator whether this is the model that it means

    @abstractmethod
    def rows(self, tensor: TensorInfo) -> Bytes:
        """The whole tensor as [rows, row bytes], read-only and not copied."""

    def floats(self, tensor: TensorInfo) -> Floats:
        """The whole tensor as float32 [rows, columns]."""
        return FORMATS[tensor.type].widen(self.rows(tensor), tensor.columns)
