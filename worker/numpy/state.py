"""The state of a NumPy device: its buffers as arrays, and the step that runs on them."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.step import StepLayout, StepView
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.numpy.cache import NumpyCache
from tplaunch.worker.ops.common import RowSet

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class NumpyState:
    """Buffers by name, and views of them: matrices are [rows of the step, row length] float32."""

    step: StepView
    runs: list[tuple[int, int]]  # neighbouring rows of one sequence

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes: dict[str, Bytes] = {}
        self.buffers: dict[str, Buffer] = {}
        self.matrices: dict[str, Floats] = {}
        self.caches: dict[str, NumpyCache] = {}
        self.partials: Floats = np.zeros((2, 0, 0), np.float32)
        self.write_slot = 0
        self.num_partials = 0  # slots that are read

    def begin_step(self, num_rows: int) -> None:
        """Reads the step buffer anew."""
        self.step = StepView(self.bytes["step"].view(np.uint32), StepLayout(self.limits))
        assert num_rows == self.step.num_rows, f"{num_rows} rows in a step of {self.step.num_rows}"
        self.runs = _runs(self.step.table_starts[:num_rows])

    def vector(self, name: str, length: int) -> Floats:
        """The first elements of a buffer."""
        return self.bytes[name].view(np.float32)[:length]

    def num_rows(self, rows: RowSet = "rows") -> int:
        """Returns the number of rows in the step, or of its rows with logits."""
        return self.step.num_rows if rows == "rows" else self.step.num_logit_rows

    def rows(self, buffer: str, rows: RowSet = "rows") -> Floats:
        """The step's rows of a buffer."""
        length, num_rows = self.buffers[buffer].row_length, self.num_rows(rows)
        return self.bytes[buffer].view(np.float32)[: num_rows * length].reshape(num_rows, length)

    def pairs(self, buffer: str, used: int) -> Floats:
        """A buffer with `used` rows for every row of the step."""
        length, num_pairs = self.buffers[buffer].row_length, self.num_rows() * used
        return self.bytes[buffer].view(np.float32)[: num_pairs * length].reshape(num_pairs, length)

    def partial(self, parity: int, slot: int) -> Floats:
        """One slot as [rows, row length of hidden]."""
        length = self.buffers["hidden"].row_length
        num_rows = self.num_rows()
        return self.partials[parity, slot, : num_rows * length].reshape(num_rows, length)

    def own_partial(self, parity: int, length: int) -> Floats:
        """The slot that is written in an exchange of short rows [rows, length]."""
        num_rows = self.num_rows()
        return self.partials[parity, self.write_slot, : num_rows * length].reshape(num_rows, length)

    def small_partials(self, parity: int, length: int) -> Floats:
        """The slots that are read in an exchange of short rows [slots, rows, length]."""
        num_rows = self.num_rows()
        slots = self.partials[parity, : self.num_partials, : num_rows * length]
        return slots.reshape(len(slots), num_rows, length)


def _runs(table_starts: npt.NDArray[np.uint32]) -> list[tuple[int, int]]:
    """Neighbouring rows of one sequence, so that its keys are gathered and widened once for them."""
    edges = [0, *(np.flatnonzero(np.diff(table_starts)) + 1).tolist(), table_starts.size]
    return list(itertools.pairwise(edges))
