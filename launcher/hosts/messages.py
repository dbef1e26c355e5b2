"""Every message between the head and a joining host, in the order in which they are first sent.

The first frame is a message's number (hosts.order); beats and last words have none. A joining host is asked
for its part and nothing else: no message names a path that it would open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union, get_args

from tplaunch.coordinator import wire
from tplaunch.coordinator.curve import SECRET_BYTES
from tplaunch.coordinator.gguf.origin import model_hash
from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.copies import AskCopy, CopySeen, Fetched, Fetching, FetchPart
from tplaunch.launcher.hosts.descriptions import (
    HostDevice,
    WantedPart,
    check_bytes,
    check_sentence,
    check_text,
)
from tplaunch.launcher.hosts.links import Interface
from tplaunch.launcher.hosts.measurements import AskEcho, AskSpeed, AskSteps, DeviceSpeed, StepsTimed

PROTOCOL_VERSION = 7  # of these messages; those to workers have one of their own, which is also compared
MAX_FRAME_BYTES = 1 << 20
NUMBER_BYTES = 8  # little-endian; 0 for a message that is not kept in order
MAX_PARTS = 999  # files of a model


@dataclass(frozen=True)
class Join:
    """Joiner: I am here, and this is what I have."""

    version: int
    worker_version: int  # of the messages between coordinator and workers
    release: str  # of tplaunch
    name: str
    devices: tuple[HostDevice, ...]  # one rank each
    total_memory: int  # bytes
    available_memory: int
    memory_limit: str  # what leaves less than the machine has
    num_cores: int
    interface: Interface  # by which it reaches the head
    wanted_host: int  # its number, where that is decided elsewhere; 0 for any
    max_memory: int = 0  # bytes of its memory, as --max-memory there says; 0 for all

    def __post_init__(self) -> None:
        check_text(self.release, self.name, self.memory_limit)
        check_bytes(self.total_memory, self.available_memory, self.max_memory)
        if not 1 <= len(self.devices) <= MAX_RANKS:
            raise ValueError(f"{len(self.devices)} devices, where 1 to {MAX_RANKS} are possible")
        if not 0 <= self.num_cores <= 1 << 16 or not 0 <= self.wanted_host < MAX_RANKS:
            raise ValueError(f"{self.num_cores} cores, and the host's number {self.wanted_host}")


@dataclass(frozen=True)
class Refused:
    """Head: you can't take part; the sentence says why. passes: it may be otherwise later."""

    reason: str
    passes: bool = False

    def __post_init__(self) -> None:
        check_sentence(self.reason)


@dataclass(frozen=True)
class WantedModel:
    """Head: have you this model? It has no parts where every worker makes its weights up."""

    name: str  # for people
    model_hash: str
    parts: tuple[WantedPart, ...]
    silence_seconds: float  # from now on, who says nothing for so long counts as dead
    port: int = 0  # of the host that was joined, where its bytes can be fetched; 0 for nowhere

    def __post_init__(self) -> None:
        check_text(self.name, self.model_hash)
        if self.parts and self.model_hash != model_hash([part.file_hash for part in self.parts]):
            raise ValueError(f"{self.model_hash!r:.80} is not the hash of these files")
        if not 0 <= self.port < 65536:
            raise ValueError(f"the port {self.port}")
        if len(self.parts) > MAX_PARTS or not 0 < self.silence_seconds < 1e6:
            raise ValueError(f"a model of {len(self.parts)} parts, after {self.silence_seconds} s of silence")


@dataclass(frozen=True)
class FoundModel:
    """Joiner: I have it. Without it the sentence says what I have, and the head refuses me.

    fetches: I have not, but shall fetch what my ranks need.
    """

    fault: str = ""
    fetches: bool = False

    def __post_init__(self) -> None:
        check_sentence(self.fault)


@dataclass(frozen=True)
class Welcome:
    """Head: you are this host of so many."""

    host: int
    num_hosts: int


@dataclass(frozen=True)
class Beat:
    """Both, several times within the silence that is allowed: I am still there.

    So many numbered messages I have sent, and taken. lacks: some have not come; send those again.
    """

    sent: int
    taken: int
    lacks: bool


@dataclass(frozen=True)
class StartRanks:
    """Head: start a worker for each of your devices that is named here, by its place in your list."""

    run: int  # counts the starts of this head
    ranks: tuple[int, ...]
    devices: tuple[int, ...]
    port: int  # of the coordinator, on the host that was joined
    secret: bytes  # of this run: workers prove to the coordinator that they know it

    def __post_init__(self) -> None:
        if not 1 <= len(self.ranks) == len(self.devices) <= MAX_RANKS or len(self.secret) != SECRET_BYTES:
            raise ValueError(f"{len(self.ranks)} ranks on {len(self.devices)} devices")
        if not all(0 <= rank < MAX_RANKS for rank in self.ranks) or len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"the ranks {self.ranks}")
        if not all(0 <= device < MAX_RANKS for device in self.devices) or not 0 < self.port < 65536:
            raise ValueError(f"the devices {self.devices} and the port {self.port}")


@dataclass(frozen=True)
class RanksStarted:
    """Joiner: they run, and write their logs into this folder of mine."""

    run: int
    logs: str

    def __post_init__(self) -> None:
        check_sentence(self.logs)


@dataclass(frozen=True)
class RankEnded:
    """Joiner: this rank has ended, or stands still; the sentence goes on behind its name."""

    run: int
    rank: int
    how: str

    def __post_init__(self) -> None:
        check_sentence(self.how)
        if not 0 <= self.rank < MAX_RANKS:
            raise ValueError(f"the rank {self.rank}")


@dataclass(frozen=True)
class StopRanks:
    """Head: end the workers of a run, at once or after they had time to end by themselves."""

    run: int
    at_once: bool
    keeps_logs: bool


@dataclass(frozen=True)
class RanksStopped:
    """Joiner: they have ended."""

    run: int


@dataclass(frozen=True)
class Leave:
    """Joiner: I end; the sentence says why."""

    reason: str

    def __post_init__(self) -> None:
        check_sentence(self.reason)


@dataclass(frozen=True)
class End:
    """Head: I end; where that is a failure the sentence says why."""

    failure: str = ""

    def __post_init__(self) -> None:
        check_sentence(self.failure)


FromHead = Union[  # noqa: UP007
    Refused,
    WantedModel,
    Welcome,
    Beat,
    AskSpeed,
    AskSteps,
    AskEcho,
    AskCopy,
    FetchPart,
    StartRanks,
    StopRanks,
    End,
]
FromJoiner = Union[  # noqa: UP007
    Join,
    FoundModel,
    Beat,
    DeviceSpeed,
    StepsTimed,
    CopySeen,
    Fetching,
    Fetched,
    RanksStarted,
    RankEnded,
    RanksStopped,
    Leave,
]
LAST_WORDS = (End, Refused, Leave)  # count also where others before them were lost
_FROM_HEAD: dict[str, type] = {kind.__name__: kind for kind in get_args(FromHead)}
_FROM_JOINER: dict[str, type] = {kind.__name__: kind for kind in get_args(FromJoiner)}


def encode(message: FromHead | FromJoiner) -> list[Frame]:
    """Returns the frames to send, without a number."""
    return [bytes(NUMBER_BYTES), *wire.pack(type(message).__name__, message)]


def number_of(frames: Sequence[Frame]) -> int:
    """Returns a message's number, 0 for none. Raises wire.WireError."""
    if not frames or len(frames[0]) != NUMBER_BYTES:
        raise wire.WireError("a message without a number")
    return int.from_bytes(frames[0], "little")


def decode_from_head(frames: Sequence[Frame]) -> FromHead:
    """Returns the message in the frames. Raises wire.WireError."""
    number_of(frames)
    message: FromHead = wire.unpack(frames[1:], _FROM_HEAD)
    return message


def decode_from_joiner(frames: Sequence[Frame]) -> FromJoiner:
    """Returns the message in the frames. Raises wire.WireError."""
    number_of(frames)
    message: FromJoiner = wire.unpack(frames[1:], _FROM_JOINER)
    return message
