"""Records a program's segments: kernels with their arguments, and what NumPy computes between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.worker.buffers.step import NUM_RUNS_WORD, StepLayout
from tplaunch.worker.cpu.code import Kernel, Kernels
from tplaunch.worker.cpu.memory import in_lines, lines
from tplaunch.worker.cpu.team import Team
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.common import RowSet
from tplaunch.worker.ops.matrix import Matrix

NUM_PLANES = 4  # that kernels take addresses of
HostPart = Callable[[NumpyState], None]
Called = tuple[str, dict[str, int | float]]  # a kernel by its name, with its arguments
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KernelPart:
    """Kernels that run one after another: their addresses and those of their arguments [kernels, 2]."""

    calls: npt.NDArray[np.int64]
    arguments: tuple[npt.NDArray[np.int64], ...]  # kept, for their addresses are in use
    run: npt.NDArray[np.int64]  # the arguments of running.run and running.lead
    address: int  # of these


class Recorder:
    """Takes kernels and parts of the host in the order in which they are to run."""

    def __init__(self, state: NumpyState, kernels: Kernels, team: Team) -> None:
        self.state, self.num_threads = state, team.num_threads
        self._team = team.address
        self._kernels = kernels
        self._scratch: dict[str, list[Bytes]] = {}  # the last one of a name is the largest
        self._constants: list[npt.NDArray[np.float32]] = []
        self._parts: list[list[Called] | HostPart] = []

    def kernel(self, name: str, **arguments: int | float) -> None:
        """Adds a kernel by its name, module.function below kernels/, with its arguments."""
        if not self._parts or not isinstance(self._parts[-1], list):
            self._parts.append([])
        called = self._parts[-1]
        assert isinstance(called, list)
        called.append((name, arguments))

    def host(self, part: HostPart) -> None:
        """Adds what NumPy computes."""
        self._parts.append(part)

    def names(self) -> set[str]:
        """Returns the kernels of what was recorded since the last call of this or of parts."""
        parts, self._parts = self._parts, []
        return {name for part in parts if isinstance(part, list) for name, _ in part}

    def parts(self) -> list[KernelPart | HostPart]:
        """Returns the same as it runs; kernels that are not there are compiled."""
        parts, self._parts = self._parts, []
        return [self._linked(part) if isinstance(part, list) else part for part in parts]

    def _linked(self, called: list[Called]) -> KernelPart:
        kernels = [self._kernels[name] for name, _ in called]
        words = tuple(_words(kernel, of_call) for kernel, (_, of_call) in zip(kernels, called, strict=True))
        pairs = [(kernel.address, held.ctypes.data) for kernel, held in zip(kernels, words, strict=True)]
        calls = np.array(pairs, np.int64)
        run = np.array((calls.ctypes.data, len(calls), self._team), np.int64)
        return KernelPart(calls, words, run, int(run.ctypes.data))

    def scratch(self, name: str, nbytes: int) -> Bytes:
        """Returns memory of at least so many bytes, whose content lasts until the next use of the name."""
        held = self._scratch.setdefault(name, [])
        if not held or held[-1].nbytes < nbytes:
            held.append(lines(nbytes))  # the others are in use by what was recorded before
        return held[-1]

    def room(self, name: str, nbytes: int) -> dict[str, int]:
        """Returns the address of scratch memory for all threads, and the bytes of one, by kernels' names."""
        own = in_lines(nbytes)
        memory = self.scratch(name, own * self.num_threads)
        return {"scratch": int(memory.ctypes.data), "scratch_bytes": own}

    def constant(self, values: npt.NDArray[np.float32]) -> int:
        """Returns the address of values that are the same in every step."""
        self._constants.append(values)
        return int(values.ctypes.data)

    def address(self, buffer: str, offset: int = 0) -> int:
        """Returns the address of a buffer's bytes, or of those behind `offset` float32."""
        return int(self.state.bytes[buffer].ctypes.data) + 4 * offset

    def stride(self, buffer: str) -> int:
        """Returns the bytes from one row of a buffer to the next."""
        return 4 * self.state.buffers[buffer].row_length

    def vector(self, buffer: str | None) -> int:
        """Returns the address of a vector of weights; 0 where there is none."""
        return 0 if buffer is None else self.address(buffer)

    def num_rows(self, rows: RowSet = "rows") -> int:
        """Returns the address of the number of the step's rows, or of those with logits."""
        return self.address("step", 0 if rows == "rows" else 1)

    def most_rows(self, rows: RowSet = "rows") -> int:
        """Returns how many of these a step may have."""
        limits = self.state.limits
        return limits.max_rows if rows == "rows" else limits.max_logit_rows

    def logit_rows(self) -> int:
        """Returns the address of the numbers of the step's rows with logits."""
        return self.address("step", StepLayout(self.state.limits).logit_rows)

    def runs(self) -> dict[str, int]:
        """Returns the addresses of what the step says of its runs, as kernels name them."""
        layout = StepLayout(self.state.limits)
        words = {
            "num_runs": NUM_RUNS_WORD,
            "run_starts": layout.run_starts,
            "read_slots": layout.read_slots,
            "write_slots": layout.write_slots,
        }
        return {name: self.address("step", word) for name, word in words.items()}

    def slot(self, parity: int) -> int:
        """Returns the address of this rank's slot of partial sums."""
        return int(self.state.partials[parity, self.state.write_slot].ctypes.data)

    def slots(self, parity: int) -> tuple[int, int, int]:
        """Returns the address of the first slot, the bytes from one to the next, and how many are read."""
        partials = self.state.partials
        return int(partials[parity].ctypes.data), partials.strides[1], self.state.num_partials

    def planes(self, matrix: Matrix) -> dict[str, int]:
        """Returns the addresses of a matrix's planes, and of a codebook before them, as kernels name them."""
        weight_format, start = FORMATS[matrix.type], self.address(matrix.name)
        offsets = weight_format.plane_offsets(matrix.rows, matrix.columns)[:-1]
        codebook = [start] if weight_format.codebook_bytes else []
        addresses = [*codebook, *(start + offset for offset in offsets)]
        addresses += [0] * (NUM_PLANES - len(addresses))
        return {f"p{index}": address for index, address in enumerate(addresses)}


def _words(kernel: Kernel, arguments: dict[str, int | float]) -> npt.NDArray[np.int64]:
    """Returns the arguments of a kernel as it reads them."""
    if sorted(arguments) != sorted(kernel.parameters):
        raise TypeError(f"{kernel.name} takes {kernel.parameters}, not {list(arguments)}")
    words = np.zeros(len(kernel.parameters), np.int64)
    for index, parameter in enumerate(kernel.parameters):
        value = arguments[parameter]
        if isinstance(value, float):
            words[index : index + 1].view(np.float32)[0] = value
        else:
            words[index] = value
    return words
