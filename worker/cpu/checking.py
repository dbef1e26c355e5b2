"""Checks the kernels for processors against NumPy, one operation after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version

from tplaunch.worker.checking.table import SmallOp
from tplaunch.worker.cpu.code import PACKAGES, Kernels
from tplaunch.worker.cpu.device import RECORD, CpuDevice
from tplaunch.worker.cpu.target import host
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.ops.attention import Attention, RopeCache
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.latent import HeadProducts


class CpuChecker:
    """Checks what a device of so many threads computes."""

    def __init__(self, num_threads: int, timeout_seconds: float) -> None:
        self._kernels = Kernels(cache_folder())
        self._num_threads, self._timeout_seconds = num_threads, timeout_seconds

    @property
    def device(self) -> str:
        """The processor, as LLVM names it."""
        return f"processor, {host().processor}, threads: {self._num_threads}"

    @property
    def compiler(self) -> str:
        """The packages that compile kernels, in the place of a driver."""
        return ", ".join(f"{package} {version(package)}" for package in PACKAGES)

    def kernels_of(self, ops: Iterable[SmallOp]) -> Iterator[tuple[SmallOp, str]]:
        """Yields the operations that have kernels, each with a name; NumPy does the others."""
        for op in ops:
            if type(op.op) in RECORD:
                yield op, _name(op)

    def error(self, op: SmallOp) -> tuple[float, float]:
        """Returns the largest error of an operation's results, and the one that it may have."""
        check = op.check()
        device = CpuDevice(check.case.limits, self._kernels, self._num_threads, self._timeout_seconds)
        try:
            results = check.run(device)
        finally:
            device.close()
        return check.error(results, check.expected()), check.bound


def _name(op: SmallOp) -> str:
    """Names an operation with the type of its weights or of its cache, by which it is compiled."""
    kind = type(op.op).__name__
    if isinstance(op.op, MatMul | ExpertMatMul | HeadProducts):
        return f"{kind}_{op.op.matrix.type.lower()}"
    return f"{kind}_{op.kv_type}" if isinstance(op.op, Attention | RopeCache) else kind
