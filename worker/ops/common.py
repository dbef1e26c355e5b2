"""The operations that programs are made of, each as frozen data with the buffers that it reads and writes.

What each computes is defined by worker/numpy/; handlers.py finds who runs it. shaders/ holds the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from tplaunch.worker.ops.attention import (
    Attention,
    AttentionCombine,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
)
from tplaunch.worker.ops.exchange import Gather, MovePartials
from tplaunch.worker.ops.experts import ExpertMatMul, ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes
from tplaunch.worker.ops.latent import CopyHeads, HeadProducts
from tplaunch.worker.ops.logits import LogitGroups
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.recurrent import RecurrentOp

RowSet = Literal["rows", "logit_rows"]  # all rows of a step, or those that get logits
# The buffers that Quantize writes, for the products that come next: of rows, and of rows' pairs with experts.
QUANTIZED, QUANTIZED_PAIRS = "quantized", "quantized_pairs"


@dataclass(frozen=True)
class SumNorm:
    """hidden = source + addend; output = norm of hidden, times the weight, plus the bias.

    The addend is the sum of the ranks' partials of a parity, or of their first slot where `summed`, or what
    another buffer holds, or nothing. For logit_rows only the chosen rows are computed, packed together in the
    output, and hidden is not written; nor is it without a source: then the addend alone is normalised.
    """

    source: str | None
    weight: str | None  # None for no norm: output = hidden
    width: int  # elements of a row, without its padding
    epsilon: float
    output: str
    rows: RowSet
    addend: str | None = None  # partials or another buffer
    parity: int | None = None  # of partials
    norm: str = "rms"  # or layer
    bias: str | None = None
    summed: bool = False

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(name for name in (self.source, self.addend) if name is not None)

    @property
    def stores_hidden(self) -> bool:
        """Tells if hidden is written; a sum of hidden alone is in its place already."""
        return (
            self.rows == "rows" and self.source is not None and (self.source, self.addend) != ("hidden", None)
        )

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output, "hidden") if self.stores_hidden else (self.output,))


@dataclass(frozen=True)
class GatherNorm:
    """A Gather of whole rows of the residual stream, and at once the SumNorm that adds them up, of all rows.

    The peers' partial sums are not left behind for others to read.
    """

    gather: Gather
    norm: SumNorm

    def __post_init__(self) -> None:
        assert self.norm.parity == self.gather.parity and self.norm.rows == "rows", (
            "these belong not together"
        )

    @property
    def reads(self) -> frozenset[str]:
        return self.norm.reads

    @property
    def writes(self) -> frozenset[str]:
        return self.norm.writes | self.gather.writes


@dataclass(frozen=True)
class SumSlice:
    """partials[parity, 0] = the sum of all ranks' partials: this rank's slice of it.

    The first half of a two-phase all-reduce; collectives/arena.py says how slices are cut.
    """

    parity: int
    rank: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("partials",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


@dataclass(frozen=True)
class Quantize:
    """quantized[row] = the first columns of input[row], as worker/ops/quantized.py describes.

    The rows are the step's, or their pairs with experts: quantized_pairs[pair] = input[pair].
    """

    input: str
    columns: int  # a multiple of 32
    rows: RowSet
    activations: str  # q8 or f16
    used: int = 0  # experts of a row, where its pairs with them are meant

    @property
    def output(self) -> str:
        """The name of the buffer that it writes."""
        return QUANTIZED_PAIRS if self.used else QUANTIZED

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


@dataclass(frozen=True)
class MatMul:
    """output[row, offset : offset + matrix.rows] = (input[row] x matrix^T * product_scales + bias) * scale.

    To the buffer "partials" it writes this rank's slot of the given parity. An activation is applied to
    that; a gated product has as many gates as ups, one after the other, and writes activation(gate) * up,
    half as many columns. Its input are float32, or what Quantize has made of them.
    """

    matrix: Matrix
    bias: str | None
    input: str
    output: str
    output_offset: int
    rows: RowSet
    parity: int | None = None
    activation: str | None = None  # one of worker/ops/activation_functions.py
    gated: bool = False
    activations: str = "f32"
    scale: float = 1.0
    softcap: float = 0.0  # outputs become cap * tanh(output / cap); 0 for none
    accumulates: bool = False  # onto what the output holds already
    product_scales: str | None = None  # one for each of the matrix's rows
    of_prompts: bool = False  # its rows may be multiplied in an order of their own: see ProgramOptions

    @property
    def columns(self) -> int:
        """The number of columns of the output."""
        return self.matrix.rows // 2 if self.gated else self.matrix.rows

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input, self.output) if self.accumulates else (self.input,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


@dataclass(frozen=True)
class Activate:
    """output[row, offset + column] = activation(gate) * up, which lie columns apart in gate_up.

    For gates and ups that one gated product can't give, because their types differ. Where it is not gated,
    activation(up) over a divisor of its column.
    """

    columns: int
    output_offset: int
    activation: str
    gated: bool = True
    divisors: str | None = None
    output: str = "activated"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("gate_up",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


Op = Union[  # noqa: UP007
    SumNorm,
    SumSlice,
    Gather,
    GatherNorm,
    MovePartials,
    Quantize,
    MatMul,
    Clamp,
    HeadSums,
    HeadNorm,
    Rotate,
    RopeCache,
    Attention,
    AttentionCombine,
    HeadProducts,
    CopyHeads,
    Activate,
    RecurrentOp,
    Route,
    SharedRoutes,
    ExpertTiles,
    ExpertMatMul,
    ExpertSum,
    RowGate,
    LogitGroups,
]
