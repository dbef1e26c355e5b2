"""Every message between the coordinator and the workers, in the order in which they are first sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union, get_args

import numpy as np

from tplaunch.coordinator.gguf.origin import Origin, TensorInfo
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import MAX_GROUP, MAX_RANKS, RankShare
from tplaunch.coordinator.wire import Float32s, Float64s, Int32s

PROTOCOL_VERSION = 16
HOST_KINDS = ("host", "submit", "wait", "reduce")  # of time, that the ledger of every step has


@dataclass(frozen=True)
class Hello:
    """Worker: I am here. Refused where the versions differ or the rank is not expected."""

    version: int
    rank: int


@dataclass(frozen=True)
class Load:
    """Coordinator: all that a worker needs to become its rank."""

    origin: Origin  # without files the weights are made up
    spec: ModelSpec
    tensors: tuple[TensorInfo, ...]
    share: RankShare
    placement: Placement  # of all ranks
    limits: Limits
    options: RankOptions
    token: bytes  # of this run: collectives drop what does not carry it

    def __post_init__(self) -> None:
        num_ranks = self.placement.num_ranks
        if not 0 <= self.share.rank < num_ranks <= MAX_RANKS:
            raise ValueError(f"rank {self.share.rank} of {num_ranks}, where 1 to {MAX_RANKS} are possible")
        if len(self.group) > MAX_GROUP:
            raise ValueError(f"{len(self.group)} ranks in one stage, where 1 to {MAX_GROUP} are possible")

    @property
    def group(self) -> tuple[int, ...]:
        """The ranks that all-reduce with this one, itself among them, ascending."""
        return self.placement.group(self.share.rank)


@dataclass(frozen=True)
class Attached:
    """Worker: the device is open, the file is the right one, and this is where peers find my collective."""

    model_hash: str
    device: str  # its name
    kind: str  # of the device; those of one kind compute the same bits
    endpoint: str
    handovers: tuple[str, ...] = ()  # where ranks of the stages around mine find me


@dataclass(frozen=True)
class Connect:
    """Coordinator: what all ranks told of their endpoints and the kinds of their devices, in rank order."""

    endpoints: tuple[str, ...]
    kinds: tuple[str, ...]
    handovers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Progress:
    """Worker: so many bytes of my shard are on the device."""

    done: int
    total: int


@dataclass(frozen=True)
class Ready:
    """Worker: loaded and connected. device_bytes counts every buffer."""

    device_bytes: int
    sharing: str  # how the device shares partial sums with other ranks, one of worker.device's SHARINGS
    copy_bandwidth: float = 0.0  # bytes read and written per second; 0 where it was not measured
    notes: tuple[str, ...] = ()  # what the user should know of the device, a sentence each
    tells_prompts_apart: bool = (
        False  # rows of prompts are multiplied in another arithmetic than generated ones
    )
    prompts: str = (
        "f32"  # what rows of prompts are multiplied as, one of coordinator.split.limits.ACTIVATIONS
    )
    prompt_rows: int = 64  # fewer rows of prompts in a step take the device about as long
    # Rows of prompts in a step, times the keys that each sees: more would take the device so long that its
    # driver could take it for dead. 0 for no bound.
    most_row_keys: int = 0


NO_INTEGERS: Int32s = np.frombuffer(b"", np.int32)
NO_FLOATS: Float32s = np.frombuffer(b"", np.float32)
NO_SUMS: Float64s = np.frombuffer(b"", np.float64)


def _no_integers() -> Int32s:
    return NO_INTEGERS


def _no_floats() -> Float32s:
    return NO_FLOATS


@dataclass(frozen=True)
class Wanted:
    """Coordinator: what the ranks shall tell of a step's logit rows, which are counted from 0. All int32."""

    # Of each logit row, so many of the likeliest tokens; empty where none are wanted of any.
    num_candidates: Int32s = field(default_factory=_no_integers)
    sum_rows: Int32s = field(default_factory=_no_integers)  # ascending: their log-sum-exp
    asked_rows: Int32s = field(default_factory=_no_integers)  # ascending: a token's logit in each, asked_ids
    asked_ids: Int32s = field(default_factory=_no_integers)
    whole_rows: Int32s = field(default_factory=_no_integers)  # ascending: all their logits


@dataclass(frozen=True)
class Answer:
    """Worker: what is wanted of my slice of the vocabulary, in the order in which it is wanted."""

    counts: Int32s = field(default_factory=_no_integers)  # candidates of each logit row; fewer are not -inf
    ids: Int32s = field(default_factory=_no_integers)  # candidates of all rows, the likeliest of a row first
    logits: Float32s = field(default_factory=_no_floats)  # theirs
    log_sums: Float64s = field(default_factory=lambda: NO_SUMS)
    asked: Float32s = field(default_factory=_no_floats)  # logits of the asked tokens that are mine


@dataclass(frozen=True)
class Step:
    """Coordinator: compute these rows. Arrays are int32.

    A sequence has a seat: a row of the block tables that workers keep, of which only changes travel. A seat's
    entries are what they were last set to; those that no row of the step reads may be stale. The state of a
    recurrent model is read from one slot and written to another, or to the same; what is read and not written
    stays as it is. In a model without such layers slots are -1.
    """

    number: int  # counts up from 1; a worker refuses a gap
    token_ids: Int32s  # [rows]
    # [runs * 5], a run being neighbouring rows of one sequence: its seat, the position of its first row, the
    # number of rows, the state slot that is read (-1 at position 0: the state is zeros), and the one written.
    runs: Int32s
    logit_rows: Int32s  # indices of the rows that get logits
    # These four are done before the rows. Changes of the block tables are [changes * 3]: seat, place in its
    # table, block. Copies of whole blocks, in all layers of a pool, are [copies * 2]: source, destination.
    tables: Int32s = field(default_factory=_no_integers)
    window_tables: Int32s = field(default_factory=_no_integers)  # of layers with a window
    copies: Int32s = field(default_factory=_no_integers)
    window_copies: Int32s = field(default_factory=_no_integers)
    wanted: Wanted = field(default_factory=Wanted, kw_only=True)
    of_prompts: bool = field(default=False, kw_only=True)  # all rows are of prompts, and none was generated


@dataclass(frozen=True)
class Advance:
    """Coordinator: compute the rows that follow those of the last step, of the same texts, with these tokens.

    Nothing else is new: see coordinator/next_step.py.
    """

    number: int  # as a Step's
    token_ids: Int32s  # [rows]


@dataclass(frozen=True)
class Lap:
    """A stretch of a rank's step, in seconds of the monotonic clock that all processes of a host share."""

    kind: str
    begin: float
    end: float


@dataclass(frozen=True)
class StepDone:
    """Worker: what was wanted of the logits, and where the time went."""

    number: int
    logits: Float32s  # of the whole rows [whole rows, vocabulary slice]
    ledger: dict[str, float]  # microseconds by kind
    laps: tuple[
        Lap, ...
    ] = ()  # for a trace: those of the host; where the device has timestamps: its segments
    answer: Answer = field(default_factory=Answer)
    sent_bytes: int = 0  # in messages to other ranks, with all that these take on the way


@dataclass(frozen=True)
class FetchRows:
    """Coordinator: send these logit rows whole, of the last step, or with several stages of one before it."""

    number: int  # of that step
    rows: Int32s


@dataclass(frozen=True)
class Rows:
    """Worker: my slice of the rows that were fetched, [rows, vocabulary slice]."""

    number: int
    logits: Float32s


@dataclass(frozen=True)
class Failed:
    """Worker: I can't go on. `culprit` is the rank that caused it, where that is known to be another."""

    error: str
    culprit: int | None


@dataclass(frozen=True)
class Shutdown:
    """Coordinator: end."""


Message = Union[  # noqa: UP007
    Hello,
    Load,
    Attached,
    Connect,
    Progress,
    Ready,
    Step,
    Advance,
    StepDone,
    FetchRows,
    Rows,
    Failed,
    Shutdown,
]
KNOWN: dict[str, type] = {message.__name__: message for message in get_args(Message)}
