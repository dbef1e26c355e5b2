"""The wishes of the user as frozen data. Validated where it is made; passed in everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.options import OptionError, RankOptions, check_choices, check_seconds, option
from tplaunch.coordinator.split.limits import ACTIVATIONS, Limits
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, MAX_GROUP, MAX_RANKS
from tplaunch.launcher.device_choice import NONE
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.number_lists import AUTO, parse_layers, parse_split
from tplaunch.launcher.overrides import Value, parse_overrides
from tplaunch.launcher.sizes import parse_max_memory, parse_state_cache

MODEL_GROUP = "model"  # of options that stand in no group of their own in the help
HOSTS_GROUP = "hosts"
# By a command that a person gives there, by their numbers in a cluster, or because Ray has placed them.
INVITED, NUMBERED, PLACED = "invited", "numbered", "placed"
KEY_HELP = (
    "the key file that all hosts have, made by `tplaunch keygen` (default: ~/.config/tplaunch/hosts.key where"
    " it is there)"
)
MAX_MEMORY_HELP = (
    "what the ranks on a device may take, such as 0=8GiB,1=20GiB; cpu= for this machine's memory"
)
NO_PIN_HELP = "spread ranks over all cores, not over those near their cards"
INSECURE_HELP = (
    "go without a key beyond this machine: anybody on the network can then join, read and change all"
)
SERVING_GROUP = "serving"  # of options of those commands that compute the requests of many
API_PARALLEL = 64  # of a Python program, which may give many prompts at once
RECURRENT_PARALLEL = 8  # of the same, where nothing is said: each text keeps a state of megabytes
EXPERTS_APART = "devices"  # experts on processors, all else on cards: launcher/fitting/experts_apart.py
MAX_PARALLEL = 1024  # sequences: their block tables are looked at in every step


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


@dataclass(frozen=True)
class HubModel:
    """A model in a repository of Hugging Face, in place of a path: by quant, by file, or as it comes."""

    repository: str  # org/name
    quant: str | None = None
    file: str | None = None  # with its folders in the repository

    @property
    def name(self) -> str:
        return self.repository + (f":{self.quant}" if self.quant else "")


@dataclass(frozen=True, kw_only=True)
class RunConfig(RankOptions):
    """A model on a set of devices. Its own options stay in the launcher; the ranks get those it inherits."""

    model: Path | RandomModel | HubModel
    devices: str = option(
        "--devices",
        default="all",
        group="ranks",
        metavar="LIST",
        help="devices as `tplaunch devices` lists them, by index or name, one rank each; one may stand"
        " several times (0,0); all, for each card once; cpu for the processor, cpus for a rank on each of its"
        " memory nodes, cpu:1 for one of these, cpu:0-3 for cores; numpy for the reference; none where"
        " --hosts has others' (default: %(default)s)",
    )
    no_pin: bool = option("--no-pin", default=False, group="ranks", help=NO_PIN_HELP)
    # One weight a rank; None for equal ones.
    tensor_split: tuple[float, ...] | Literal["auto"] | None = option(
        "--tensor-split",
        default=None,
        group="ranks",
        metavar="WEIGHTS",
        read=parse_split,
        help="shares of the ranks, such as 3,1; auto weighs them by speed, as far as memory allows"
        " (default: equal)",
    )
    expert_split: str = option(
        "--expert-split",
        default=EXPERT_SPLITS[0],
        group="ranks",
        choices=(*EXPERT_SPLITS, EXPERTS_APART),
        help="a rank holds its columns of all experts, or some of them whole; devices has processors hold all"
        " experts, in the machine's memory, and cards all else (default: %(default)s)",
    )
    hosts: int = option(
        "--hosts",
        default=1,
        group=HOSTS_GROUP,
        number=int,
        metavar="N",
        help="run on so many machines: this one, and others on which `tplaunch join` runs; their devices come"
        " behind this one's (default: %(default)s)",
    )
    key: str | None = option("--key", default=None, group=HOSTS_GROUP, metavar="FILE", help=KEY_HELP)
    listen: str | None = option(
        "--listen",
        default=None,
        group=HOSTS_GROUP,
        metavar="ADDRESS[:PORT]",
        help="where other machines join, on port 5670 by default (default: all addresses with a key,"
        " else 127.0.0.1)",
    )
    insecure: bool = option("--insecure", default=False, group=HOSTS_GROUP, help=INSECURE_HELP)
    pipeline: int = option(
        "--pipeline",
        default=1,
        group="ranks",
        number=int,
        metavar="N",
        help="stages of layers that compute one after another, each on some of the ranks; several sequences,"
        " or the parts of a long prompt, keep all of them busy (default: %(default)s)",
    )
    pipeline_split: tuple[int, ...] | None = option(  # None for what is in proportion to the ranks' shares
        "--pipeline-split",
        default=None,
        group="ranks",
        metavar="LAYERS",
        read=parse_layers,
        help="the layers of each stage, such as 12,20 (default: by the ranks' shares)",
    )
    load_timeout_seconds: float = option(  # a slow driver compiles a kernel for most of a minute
        "--load-timeout",
        default=600.0,
        group="ranks",
        number=float,
        metavar="SECONDS",
        help="how long a rank may load without progress (default: %(default)s)",
    )
    context_length: int | None = option(  # None for what fits
        "--context",
        default=None,
        group="memory",
        number=int,
        metavar="N",
        help="positions to hold (default: the model's, or as many as fit)",
    )
    parallel: int = option(
        "--parallel",
        default=1,
        group="memory",
        number=int,
        metavar="N",
        help="sequences at once: the KV cache has room for one whole context, and up to 1,024 positions more"
        f" for each other one (default: %(default)s, and {API_PARALLEL} of the Python API)",
    )
    state_cache_bytes: int = option(
        "--state-cache",
        default=1 << 30,
        default_text="1GiB",
        group="memory",
        metavar="SIZE",
        read=parse_state_cache,
        help="what all devices together keep of earlier states of recurrent layers, so that a prompt that"
        " begins as an earlier one goes on from there; as much as fits beside the context, but two"
        " snapshots at least unless it is 0 (default: %(default)s)",
    )
    max_memory: Mapping[int | None, int] = option(  # bytes by device; None: the CPU's
        "--max-memory",
        default={},
        group="memory",
        metavar="INDEX=SIZE,...",
        read=parse_max_memory,
        help=MAX_MEMORY_HELP,
    )
    kv_type: str = option(
        "--kv-type",
        default="f16",
        group="memory",
        choices=tuple(KV_TYPES),
        help="of the KV cache (default: %(default)s)",
    )
    activations: str = option(
        "--activations",
        default=ACTIVATIONS[0],
        group="memory",
        choices=ACTIVATIONS,
        help="what weights are multiplied by: f16 (in a prefill) and q8 round, for devices with cooperative"
        " matrices and with integer dot products; auto is f16 where that is faster, and else f32 (default:"
        " %(default)s)",
    )
    max_rows: int | None = option(  # None for what fits
        "--prefill-chunk",
        default=None,
        group="memory",
        number=int,
        metavar="ROWS",
        help=f"prompt tokens computed in one step (default: {Limits.max_rows}, or so few that they take"
        " 64 MB)",
    )
    overrides: tuple[tuple[str, Value], ...] = option(
        "--override-kv",
        default=(),
        group=MODEL_GROUP,
        metavar="KEY=TYPE:VALUE",
        read=parse_overrides,
        is_repeated=True,
        help="change the file's metadata, such as llama.context_length=int:8192; the types are int, float,"
        " bool and str; may stand several times",
    )
    others_come: str = INVITED  # how other hosts come to join, which decides what a person is told
    # This is set by commands: they read the logits of whole texts, so many rows of a step get some.
    reads_texts: bool = False
    restart_workers: bool = option(
        "--restart-workers",
        default=False,
        group=SERVING_GROUP,
        help="start ranks that have failed again, three times within ten minutes at most; requests go on from"
        " the tokens that they have",
    )
    verbose: bool = option("-v --verbose", default=False, group="debugging", help="show the workers' logs")

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
            check_choices(self)
            check_seconds("--load-timeout", self.load_timeout_seconds)
        except OptionError as error:
            raise UsageError(str(error)) from None
        if self.context_length is not None and self.context_length < 1:
            raise UsageError(f"--context {self.context_length}: at least 1 is needed")
        if self.context_length is not None and self.context_length >= 2**31:
            raise UsageError(f"--context {self.context_length}: at most {2**31 - 1} positions are possible")
        if not 1 <= self.hosts <= MAX_RANKS:
            raise UsageError(f"--hosts {self.hosts}: 1 to {MAX_RANKS} are possible")
        if self.hosts == 1 and (self.listen is not None or self.insecure):
            raise UsageError(f"{'--insecure' if self.insecure else '--listen'} goes with --hosts N")
        if self.hosts == 1 and self.devices == NONE:
            raise UsageError(f"--devices {NONE} goes with --hosts N, whose other hosts have the ranks then")
        if not 1 <= self.parallel <= MAX_PARALLEL:
            raise UsageError(f"--parallel {self.parallel}: 1 to {MAX_PARALLEL} sequences are possible")
        if self.max_rows is not None and not 1 <= self.max_rows <= 512:
            raise UsageError(f"--prefill-chunk {self.max_rows}: 1 to 512 rows are possible")
        if self.pipeline_split is not None and self.pipeline not in (1, len(self.pipeline_split)):
            raise UsageError(
                f"--pipeline {self.pipeline}: --pipeline-split has {len(self.pipeline_split)} stages"
            )
        if not 1 <= self.num_stages <= MAX_RANKS:
            raise UsageError(f"--pipeline {self.num_stages}: 1 to {MAX_RANKS} stages are possible")
        if self.overrides and isinstance(self.model, RandomModel):
            raise UsageError("--override-kv goes with a model file; a --shape has no metadata")

    @property
    def rank_options(self) -> RankOptions:
        """The options that travel to the ranks."""
        return RankOptions(**{field.name: getattr(self, field.name) for field in fields(RankOptions)})

    @property
    def num_stages(self) -> int:
        """The stages that the layers are cut into."""
        return self.pipeline if self.pipeline_split is None else len(self.pipeline_split)

    def rank_weights(self, num_ranks: int) -> tuple[float, ...] | None:
        """One weight per rank; None where they are to be found out."""
        most = min(MAX_RANKS, MAX_GROUP * self.num_stages)
        if not 1 <= num_ranks <= most:
            raise UsageError(f"--devices {self.devices}: {num_ranks} ranks; 1 to {most} are possible")
        if num_ranks < self.num_stages:
            raise UsageError(
                f"--pipeline {self.num_stages}: each stage needs a rank, but --devices names {num_ranks}"
            )
        if self.tensor_split is None:
            return (1.0,) * num_ranks
        if self.tensor_split == AUTO:
            return None
        if len(self.tensor_split) != num_ranks:
            raise UsageError(
                f"--tensor-split has {len(self.tensor_split)} weights, but --devices names {num_ranks} ranks"
            )
        return self.tensor_split
