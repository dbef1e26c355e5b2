"""Every message between the launcher and a process with one job: the jobs, and what comes of them.

The job comes over the process's standard input, and its answers go over its standard output, as
coordinator/framing.py writes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.options import RankOptions
from tplaunch.worker.jobs.figures import FIGURE_ANSWERS, FIGURE_JOBS, PairFigures
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment


@dataclass(frozen=True)
class SpeedJob:
    """Launcher: tell how fast one device multiplies, by a Speed."""

    on_cpu: bool  # the device's work is this process's
    anew: bool  # a measurement that was kept does not count
    options: RankOptions = field(default_factory=RankOptions)


@dataclass(frozen=True)
class Product:
    """A matrix that a model multiplies by."""

    type: str
    rows: int
    columns: int
    activations: str


@dataclass(frozen=True)
class TuningJob:
    """Launcher: measure the products and the attention of some models, each once, for a Tuning."""

    kv_type: str
    activations: str  # as the user wants them
    products: tuple[Product, ...]
    attentions: tuple[Attention, ...]
    options: RankOptions = field(default_factory=RankOptions)

    @staticmethod
    def of(
        programs: Iterable[Program], kv_type: str, activations: str, options: RankOptions | None = None
    ) -> TuningJob:
        """Returns the job for what all these programs do."""
        products: dict[Product, None] = {}
        attentions: dict[Attention, None] = {}
        for op in (op for program in programs for segment in program.segments for op in segment.ops):
            if isinstance(op, MatMul | ExpertMatMul):
                matrix = op.matrix
                products[Product(matrix.type, matrix.rows, matrix.columns, op.activations)] = None
            elif isinstance(op, Attention):
                attentions[dataclasses.replace(op, key_cache="keys", value_cache="values")] = None
        return TuningJob(kv_type, activations, tuple(products), tuple(attentions), options or RankOptions())

    def program(self) -> Program:
        """Returns these ops in two segments: a step of one has no way to be submitted in parts."""
        products = [
            MatMul(
                Matrix("matrix", product.type, product.rows, product.columns),
                None,
                "input",
                "output",
                0,
                "rows",
                activations=product.activations,
            )
            for product in self.products
        ]
        return Program(1, 1, (Segment((*products, *self.attentions), 0), Segment((), None)))


@dataclass(frozen=True)
class CheckJob:
    """Launcher: check every kernel; a CheckList first, then a CheckBegun and its end for each."""

    start: int  # the number of the first check to run
    compiles_ahead: bool = False  # some kernels together: should the driver crash, another may be to blame
    options: RankOptions = field(default_factory=RankOptions)


@dataclass(frozen=True)
class CollectiveJob:
    """Launcher: time a collective as one of its ranks: a Meeting, of which come all, then Timings."""

    kind: str  # of collectives.KINDS, with TWO_PHASE behind it or not, or the name of a library
    num_ranks: int
    sizes: tuple[int, ...]  # bytes
    num_calls: tuple[int, ...]  # of each size
    token: bytes  # of this measurement: collectives drop what does not carry it
    folder: str  # a private one, for sockets and what else the ranks meet by
    timeout_seconds: float  # for one call
    wire: str = "f32"  # of collectives.WIRE_TYPES, between ranks that count as hosts
    address: str = ""  # of TCP, where ranks find each other instead of in the folder
    work_bytes: int = 0  # that a rank reads before each call, as weights in a step: caches are full of them

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.num_calls):
            raise ValueError(f"{len(self.sizes)} sizes with {len(self.num_calls)} numbers of calls")


@dataclass(frozen=True)
class StepPoint:
    """A step to be timed: sequences that each have so many rows, from a position on."""

    rows: int  # of each sequence
    position: int
    sequences: int = 1
    with_logits: bool = True  # of each sequence's last row

    def __post_init__(self) -> None:
        if self.rows < 1 or self.sequences < 1 or self.position < 0:
            raise ValueError(f"{self.sequences} sequences of {self.rows} rows from {self.position} on")


@dataclass(frozen=True)
class StepsJob:
    """Launcher: load a rank's share and time steps of it without its peers.

    A Prepared comes first; then, behind each Begin, the StepSeconds of the next point. So several ranks
    measure the same point at the same time, as they compute in a run.
    """

    load: Load
    points: tuple[StepPoint, ...]
    on_cpu: bool  # the device's work is this process's
    seconds: float  # that each point is repeated for, at least
    anew: bool = False  # even where that is known from before


@dataclass(frozen=True)
class Begin:
    """Launcher: time the next point."""


@dataclass(frozen=True)
class Prepared:
    """Worker: loaded, and every point has run once."""


@dataclass(frozen=True)
class StepSeconds:
    """Worker: how long a step took."""

    seconds: float
    device_part: float  # of these, what the device computed


@dataclass(frozen=True)
class Failed:
    """Worker: the job can't be done; one sentence."""

    error: str


@dataclass(frozen=True)
class Speed:
    """Worker: how fast the device multiplies."""

    weights_per_second: float


@dataclass(frozen=True)
class Measurement:
    """Ways to do the same, and the one that is chosen."""

    name: str
    seconds: dict[str, float | None]  # by way; None for one that is wrong
    chosen: str


@dataclass(frozen=True)
class Tuning:
    """Worker: what was measured on the device."""

    device: str
    driver: str
    file: str | None  # that keeps it; None where it can't be kept
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class CheckList:
    """Worker: so many checks there are for this device."""

    device: str
    driver: str
    count: int


@dataclass(frozen=True)
class CheckBegun:
    """Worker: this kernel is checked now. Where a driver crashes, the last one is to blame."""

    kernel: str
    family: str
    variant: str
    op: str  # what it runs, in words


@dataclass(frozen=True)
class CheckEnded:
    """Worker: the kernel computed, or the driver does not compile it."""

    error: float | None  # None for no number
    bound: float
    refusal: str = ""  # a sentence


@dataclass(frozen=True)
class CheckFailed:
    """Worker: the kernel did not come to its end; what comes after it would no longer be sure."""

    problem: str  # a sentence


@dataclass(frozen=True)
class Meeting:
    """Worker: where the other ranks of the collective find me. Launcher: where all of them are."""

    endpoints: tuple[str, ...]  # in rank order


@dataclass(frozen=True)
class StillThere:
    """Worker: I am not done, but I go on."""


@dataclass(frozen=True)
class Timings:
    """Worker: the seconds of each call of each size, [ranks][sizes][calls], of all ranks that I speak for."""

    seconds: tuple[tuple[tuple[float, ...], ...], ...]


JOBS = (SpeedJob, TuningJob, CheckJob, CollectiveJob, StepsJob, *FIGURE_JOBS)
CHECK_ANSWERS = (CheckList, CheckBegun, CheckEnded, CheckFailed, Failed)
COLLECTIVE_ANSWERS = (Meeting, StillThere, Timings, Failed)
STEPS_ANSWERS = (Prepared, StillThere, StepSeconds, Failed)
PART_ANSWERS = (*FIGURE_ANSWERS, Failed)
PAIR_ANSWERS = (Meeting, PairFigures, Failed)
