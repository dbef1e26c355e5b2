"""Measures how fast a device multiplies by each weight type: one row as when tokens are made, and a prompt's.

By the variant that is fastest here, on matrices that take turns, so that none is found in a cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.cuts import CHUNK, CUT
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.measuring.measurements import Measurements
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.questions import ask
from tplaunch.worker.vulkan.measuring.allowance import Until
from tplaunch.worker.vulkan.measuring.trials import Size, Trial, limits_of, make_trial
from tplaunch.worker.vulkan.measuring.tuning import Tuner
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.variants import Variant, candidates, needed_invocations

COLUMNS, ROWS = 4096, 14336  # of a model of 8 billion weights: gate, or up
TYPES = ("Q8_0", "Q4_K", "F16", "Q6_K", "Q4_0", "Q5_K", "BF16")  # the most wanted ones first
# A row of that model over many keys.
KEYS, HEADS, KV_HEADS, HEAD_LENGTH = 4096, 32, 8, 128
ATTENTION = Attention(
    "keys", "values", HEADS, KV_HEADS, 0, HEADS // KV_HEADS, HEAD_LENGTH, HEAD_LENGTH, HEAD_LENGTH**-0.5
)
ROUNDED = ("Q8_0", "Q4_K")  # that are measured with rounded activations, too


@dataclass(frozen=True)
class Product:
    """A product to be timed."""

    type: str
    is_of_one_row: bool  # else of a prompt's
    activations: str = "f32"

    def op(self, of_prompts: bool) -> MatMul:
        """of_prompts: whether the kernels of prompts' rows compute it."""
        matrix, kind = Matrix("matrix", self.type, ROWS, COLUMNS), self.activations
        return MatMul(matrix, None, "input", "output", 0, "rows", activations=kind, of_prompts=of_prompts)


@dataclass(frozen=True)
class Rate:
    """How fast a product is. Its matrix was cut where the device is a CPU."""

    seconds: float
    num_rows: int
    matrix_rows: int
    columns: int
    matrix_bytes: int
    variant: str

    @property
    def bytes_per_second(self) -> float:
        """Weights that are read."""
        return self.matrix_bytes / self.seconds

    @property
    def operations_per_second(self) -> float:
        """Multiplications and additions."""
        return 2 * self.num_rows * self.matrix_rows * self.columns / self.seconds


class Rates:
    """Times products on one device."""

    def __init__(self, context: Context, pipelines: Pipelines) -> None:
        self._context = context
        self._tuner = Tuner(context, pipelines, Measurements(None, {}, ""), {})

    def products(self) -> Iterator[Product]:
        """Yields those that the device can compute, the most wanted ones first."""
        for type in TYPES:
            yield from (Product(type, is_of_one_row) for is_of_one_row in (True, False))
            if type in ROUNDED and "integer_dot_product" in self._context.info.features:
                yield from (Product(type, is_of_one_row, "q8") for is_of_one_row in (True, False))
            if type in ROUNDED and self._context.matrices:
                yield Product(type, False, "f16")

    def rate(self, product: Product, deadline: float) -> Rate | None:
        """Returns None when it got late; deadline: by time.monotonic(). Raises DeviceError."""
        info, size = self._context.info, self._tuner.size()
        num_rows = 1 if product.is_of_one_row else size.prompt_rows
        if product.is_of_one_row and info.type != "cpu":
            size = dataclasses.replace(size, max_weights=ROWS * COLUMNS)
        limits = Limits(context_length=1, num_blocks=1, max_rows=num_rows, max_logit_rows=1)
        op = product.op(of_prompts=num_rows > 1 and info.max_invocations >= needed_invocations("tiled"))
        trial, found = self._fastest(op, limits, size, deadline)
        return _rate(trial, num_rows, *found) if found else None

    def attention_seconds(self, deadline: float) -> tuple[float, str] | None:
        """Seconds of a row's attention over KEYS keys of float16, without combining, and the variant."""
        limits = limits_of(1, "f16", KEYS)
        return self._fastest(ATTENTION, limits, self._tuner.size(), deadline, part=CUT)[1]

    def _fastest(
        self, op: Op, limits: Limits, size: Size, deadline: float, part: int = CHUNK
    ) -> tuple[Trial, tuple[float, str] | None]:
        """The trial of an op; seconds of the fastest variant, and its name. None when it got late."""
        info = self._context.info
        sizes = info.sizes.widest, info.max_invocations
        asked = ask(op, limits, info.features, *sizes, info.team_lanes)
        variants = (Variant(""),) if asked.family is None else candidates(asked.family, info.features)
        name = asked.family or asked.kernel
        trial = make_trial(name, name, op, limits, size, part)
        numbers = self._tuner.times(trial, variants, Until(deadline))
        found = {seconds: name for name, seconds in numbers.items() if seconds is not None}
        return trial, min(found.items()) if found else None


def _rate(trial: Trial, num_rows: int, seconds: float, variant: str) -> Rate:
    assert isinstance(trial.op, MatMul), "a product is timed"
    matrix = trial.op.matrix
    nbytes = FORMATS[matrix.type].nbytes(matrix.rows, matrix.columns)
    return Rate(seconds, num_rows, matrix.rows, matrix.columns, nbytes, variant)
