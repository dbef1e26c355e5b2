"""The options that the ranks of a run need, and how a dataclass declares options of the command line.

A field of RankOptions is the whole declaration: its flag, its help and its default. The launcher makes the
command line from it, and a Load message carries all fields to the workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WIRES = ("f32", "bf16", "q8")
COLLECTIVES = ("shared-memory", "zmq", "zmq-ring")
ALL_REDUCES = ("auto", "one-shot", "two-phase")
WAITINGS = ("auto", "block", "poll", "word", "device")
FEATURES = (
    "int64",
    "float16",
    "integer_dot_product",
    "cooperative_matrix",
    "subgroup_shuffle",
    "eight_lanes",
)  # that a device may lack
# Ways to share memory with other processes that a device may lack.
IMPORTS = ("host_memory_import", "dma_buf_import", "dma_buf_export")
COMPUTE_QUEUE = "compute_queue"  # one that draws nothing
DISPENSABLE = (*FEATURES, *IMPORTS, COMPUTE_QUEUE)  # that `--without` knows
MAX_CPU_THREADS = 1024
SUMS = ("auto", "shared", "moved")
_DECLARATION = "option"  # in a field's metadata


class OptionError(ValueError):
    """An option has a value that is not possible; one sentence that begins with its flag."""


@dataclass(frozen=True)
class Option:
    """How the command line gives the value of a field. The parsed value's name is the last flag's."""

    flags: tuple[str, ...]
    group: str  # under this title in the help
    help: str  # %(default)s stands for the default
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    number: type[int] | type[float] | None = None  # None for text, or for a flag where the default is no text
    read: Callable[[Any], Any] | None = None  # makes the value of the text, or of the list of texts
    default_text: str | None = None  # the default as people would type it, where `read` is given
    is_repeated: bool = False  # may stand several times; its texts are a list
    opposite: tuple[str, str] | None = None  # flag and help of the one that says no; the default is neither

    @property
    def name(self) -> str:
        """The attribute of argparse's result that holds the value."""
        return self.flags[-1].lstrip("-").replace("-", "_")


def option(flags: str, *, default: Any, **declaration: Any) -> Any:
    """Returns a dataclass's field with a default and an Option; flags are separated by spaces."""
    metadata = {_DECLARATION: Option(tuple(flags.split()), **declaration)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def declared_options(kind: type) -> Mapping[str, Option]:
    """Returns the options that a dataclass declares, by field."""
    found = {field.name: field.metadata.get(_DECLARATION) for field in dataclasses.fields(kind)}
    return {name: declared for name, declared in found.items() if declared is not None}


def split_names(text: str) -> tuple[str, ...]:
    """Returns the names in a comma-separated list."""
    return tuple(text.split(","))


def check_choices(options: Any) -> None:
    """Refuses values that are not among their option's choices. Raises OptionError."""
    for name, declared in declared_options(type(options)).items():
        value = getattr(options, name)
        if declared.choices is not None and value not in declared.choices:
            raise OptionError(f"{declared.flags[-1]} {value}: known are {', '.join(declared.choices)}")


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """The options that all ranks of a run share. Raises OptionError."""

    collective: str = option(
        "--collective",
        default=COLLECTIVES[0],
        group="ranks",
        choices=COLLECTIVES,
        help="how ranks add up their partial sums (default: %(default)s)",
    )
    all_reduce: str = option(
        "--all-reduce",
        default=ALL_REDUCES[0],
        group="ranks",
        choices=ALL_REDUCES,
        help="every rank adds up all, or a slice of its own in a first phase, around a ring between hosts;"
        " auto measures from three ranks on (default: %(default)s)",
    )
    wire: str = option(
        "--wire",
        default=WIRES[0],
        group="ranks",
        choices=WIRES,
        help="partial sums travel between ranks as float32, or rounded to bfloat16; between hosts, to eight"
        " bits, too (default: %(default)s)",
    )
    timeout_seconds: float = option(
        "--timeout",
        default=60.0,
        group="ranks",
        number=float,
        metavar="SECONDS",
        help="how long a rank may take for one step (default: %(default)s)",
    )
    cpu_threads: int = option(
        "--cpu-threads",
        default=0,
        group="ranks",
        number=int,
        metavar="COUNT",
        help="threads of each rank on processors (default: one for each core that the rank may use)",
    )
    validate: bool = option(
        "--validate", default=False, group="debugging", help="with the Khronos validation layer"
    )
    staging: bool = option(
        "--staging",
        default=False,
        group="debugging",
        help="copy partial sums even where a device could import the host's memory",
    )
    submit_ahead: bool | None = option(  # None for what a device does faster
        "--submit-ahead",
        default=None,
        group="debugging",
        help="submit a step's parts at once (default: what is faster)",
        opposite=("--submit-then-wait", "submit each part of a step only when it may run"),
    )
    waiting: str = option(
        "--waiting",
        default=WAITINGS[0],
        group="debugging",
        choices=WAITINGS,
        help="how an all-reduce finds a device's part done: the host sleeps in the driver, polls it, or looks"
        " at a word that the device writes; or devices exchange among themselves (default: the fastest)",
    )
    sums: str = option(
        "--sums",
        default=SUMS[0],
        group="debugging",
        choices=SUMS,
        help="kernels write partial sums straight to memory that ranks share, or to their device's own, from"
        " where they move in long runs (default: moved from 16 rows on, by devices with memory of their own)",
    )
    without: tuple[str, ...] = option(
        "--without",
        default=(),
        group="debugging",
        metavar="FEATURES",
        read=split_names,
        help="do as if the devices lacked these features, such as int64",
    )
    # These are set by commands, not by the user.
    measure_anew: bool = False  # measurements of all-reduces that were kept do not count
    timestamps: bool = False  # devices note when they compute, for a ledger or a trace
    trace: bool = False  # every StepDone tells the laps of the host, too
    measure_copy: bool = False  # Ready tells the bandwidth of a copy in the device's memory

    @property
    def moves_sums(self) -> bool:
        """Tells whether all ranks write partial sums to memory of their own, whatever device they have."""
        return self.sums == "moved" or self.wire == "bf16"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.all_reduce == "two-phase" and self.collective == "zmq-ring":
            raise OptionError(
                f"--all-reduce two-phase: {self.collective} has no phases; use --collective shared-memory"
            )
        if not 0 <= self.cpu_threads <= MAX_CPU_THREADS:
            raise OptionError(
                f"--cpu-threads {self.cpu_threads}: 1 to {MAX_CPU_THREADS} are possible, and 0 for one a core"
            )
        check_seconds("--timeout", self.timeout_seconds)
        for feature in self.without:
            if feature not in DISPENSABLE:
                raise OptionError(f"--without {feature:.40}: known are {', '.join(DISPENSABLE)}")


def check_seconds(flag: str, seconds: float) -> None:
    """Refuses a length of time that nobody can wait for. Raises OptionError."""
    if not 0 < seconds < 1e6:
        raise OptionError(f"{flag} {seconds}: a positive number of seconds is needed")
