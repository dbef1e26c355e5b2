"""What the user asked for, as frozen data. Validated where it is made; passed in everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.split.limits import ACTIVATIONS
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, MAX_RANKS
from tplaunch.worker.device import FEATURES


class UsageError(ValueError):
    """The command can't be carried out as given: one sentence that says what to change. Exit code 2."""


class RunError(RuntimeError):
    """A worker failed; the message names it. Exit code 1."""


EXIT_FAILURE, EXIT_USAGE = 1, 2
COLLECTIVES = ("shared-memory", "zmq-ring")
ALL_REDUCES = ("auto", "one-shot", "two-phase")
AUTO: Final = "auto"
DEFAULT_STATE_CACHE_BYTES = 1 << 30
MAX_PARALLEL = 1024  # sequences: their block tables are looked at in every step
DEFAULT_LOAD_TIMEOUT_SECONDS = 600.0  # a slow driver compiles a kernel for most of a minute


@dataclass(frozen=True)
class RandomModel:
    """A well-known shape with made-up weights, in place of a file."""

    shape: str
    weight_type: str

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UsageError(f"--shape {self.shape}: known are {', '.join(SHAPES)}")
        if self.weight_type not in WEIGHT_TYPES:
            known = ", ".join(name.lower() for name in WEIGHT_TYPES)
            raise UsageError(f"--type {self.weight_type.lower()}: known are {known}")
        try:
            shape_tensors(SHAPES[self.shape], self.weight_type)
        except ModelError as error:
            raise UsageError(f"--shape {self.shape} --type {self.weight_type.lower()}: {error}") from None

    @property
    def name(self) -> str:
        return f"{self.shape} {self.weight_type} with made-up weights"


def check_timeouts(seconds: Mapping[str, float]) -> None:
    """Checks the seconds by option. Raises UsageError."""
    for option, value in seconds.items():
        if not 0 < value < 1e6:
            raise UsageError(f"{option} {value}: a positive number of seconds is needed")


@dataclass(frozen=True)
class HubModel:
    """A model in a repository of Hugging Face, in place of a path: by quant, by file, or as it comes."""

    repository: str  # org/name
    quant: str | None = None
    file: str | None = None  # with its folders in the repository

    @property
    def name(self) -> str:
        return self.repository + (f":{self.quant}" if self.quant else "")


@dataclass(frozen=True)
class RunConfig:
    """A model on a set of devices."""

    model: Path | RandomModel | HubModel
    devices: str  # as on the command line
    tensor_split: tuple[float, ...] | Literal["auto"] | None  # one weight a rank; None for equal ones
    context_length: int | None  # None for what fits
    kv_type: str
    activations: str
    collective: str
    max_rows: int | None  # of one step: the length of a prefill chunk; None for what fits
    timeout_seconds: float
    verbose: bool
    validate: bool
    staging: bool
    submit_ahead: bool | None  # None for what a device does faster
    all_reduce: str = "auto"
    measure_anew: bool = False  # how all-reduces are made best
    timestamps: bool = False  # of the devices, for a ledger or a trace
    trace: bool = False  # keep every lap of every step
    measure_copy: bool = False  # of the devices' memory
    without: tuple[str, ...] = ()  # features of the devices
    expert_split: str = EXPERT_SPLITS[0]
    load_timeout_seconds: float = DEFAULT_LOAD_TIMEOUT_SECONDS
    max_memory: Mapping[int | None, int] = field(default_factory=dict)  # bytes by device; None: the CPU's
    parallel: int = 1  # sequences at once
    state_cache_bytes: int = DEFAULT_STATE_CACHE_BYTES  # for snapshots of recurrent states, over all ranks
    overrides: tuple[tuple[str, int | float | bool | str], ...] = ()  # of the file's metadata

    def __post_init__(self) -> None:
        if self.kv_type not in KV_TYPES:
            raise UsageError(f"--kv-type {self.kv_type}: known are {', '.join(KV_TYPES)}")
        if self.activations not in ACTIVATIONS:
            raise UsageError(f"--activations {self.activations}: known are {', '.join(ACTIVATIONS)}")
        if self.collective not in COLLECTIVES:
            raise UsageError(f"--collective {self.collective}: known are {', '.join(COLLECTIVES)}")
        if self.all_reduce not in ALL_REDUCES:
            raise UsageError(f"--all-reduce {self.all_reduce}: known are {', '.join(ALL_REDUCES)}")
        if self.expert_split not in EXPERT_SPLITS:
            raise UsageError(f"--expert-split {self.expert_split}: known are {', '.join(EXPERT_SPLITS)}")
        if self.all_reduce == "two-phase" and self.collective != "shared-memory":
            raise UsageError(
                f"--all-reduce two-phase: {self.collective} has no phases; use --collective shared-memory"
            )
        if self.context_length is not None and self.context_length < 1:
            raise UsageError(f"--context {self.context_length}: at least 1 is needed")
        if not 1 <= self.parallel <= MAX_PARALLEL:
            raise UsageError(f"--parallel {self.parallel}: 1 to {MAX_PARALLEL} sequences are possible")
        if self.max_rows is not None and not 1 <= self.max_rows <= 512:
            raise UsageError(f"--prefill-chunk {self.max_rows}: 1 to 512 rows are possible")
        if self.overrides and isinstance(self.model, RandomModel):
            raise UsageError("--override-kv goes with a model file; a --shape has no metadata")
        for feature in self.without:
            if feature not in FEATURES:
                raise UsageError(f"--without {feature:.40}: known are {', '.join(FEATURES)}")
        check_timeouts({"--timeout": self.timeout_seconds, "--load-timeout": self.load_timeout_seconds})

    def rank_weights(self, num_ranks: int) -> tuple[float, ...] | None:
        """One weight per rank; None where they are to be found out."""
        if not 1 <= num_ranks <= MAX_RANKS:
            raise UsageError(f"--devices {self.devices}: {num_ranks} ranks; 1 to {MAX_RANKS} are possible")
        if self.tensor_split is None:
            return (1.0,) * num_ranks
        if self.tensor_split == AUTO:
            return None
        if len(self.tensor_split) != num_ranks:
            raise UsageError(
                f"--tensor-split has {len(self.tensor_split)} weights, but --devices names {num_ranks} ranks"
            )
        return self.tensor_split


def parse_split(text: str) -> tuple[float, ...] | Literal["auto"]:
    """The value of --tensor-split."""
    if text == AUTO:
        return AUTO
    return parse_numbers(text, "--tensor-split")


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """A comma-separated list of numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: numbers separated by commas are needed, such as 3,1") from None


def parse_tokens(text: str) -> list[int]:
    """A comma-separated list of token ids."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--tokens {text:.40}: token ids separated by commas are needed, such as 1,403,407"
        ) from None


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """A comma-separated list of counts; none for an empty one."""
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text:.40}: counts separated by commas are needed, such as 1,2") from None
