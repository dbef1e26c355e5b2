"""The messages by which a joining host asks the head for a model's bytes, and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union, get_args

from tplaunch.coordinator import wire
from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.fetching.blocks import MAX_STRIPS, Strips

MAX_ANSWER_BYTES = 4 << 20  # of one answer
DIGEST_BYTES = 16  # of blake2b


@dataclass(frozen=True)
class AskBytes:
    """Joiner: these bytes of a file."""

    strips: Strips

    def __post_init__(self) -> None:
        if self.strips.num_bytes > MAX_ANSWER_BYTES or self.strips.count > MAX_STRIPS:
            raise ValueError(
                f"{self.strips.num_bytes} bytes in {self.strips.count} strips at once; {MAX_ANSWER_BYTES} in"
                f" {MAX_STRIPS} are possible"
            )


@dataclass(frozen=True)
class BytesFollow:
    """Head: the bytes are the next frame, and this is their blake2b."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(self.digest)} bytes")


@dataclass(frozen=True)
class Refused:
    """Head: that can't be had; the sentence says why."""

    reason: str


Reply = Union[BytesFollow, Refused]  # noqa: UP007
REQUESTS: dict[str, type] = {AskBytes.__name__: AskBytes}
REPLIES: dict[str, type] = {kind.__name__: kind for kind in get_args(Reply)}


def encode(message: AskBytes | Reply) -> Frame:
    """Returns a message as its only frame."""
    (frame,) = wire.pack(type(message).__name__, message)
    return frame


def decode_request(frame: Frame) -> AskBytes:
    """Raises wire.WireError."""
    message: AskBytes = wire.unpack([frame], REQUESTS)
    return message


def decode_reply(frames: Sequence[Frame]) -> Reply:
    """Raises wire.WireError."""
    message: Reply = wire.unpack(frames, REPLIES)
    return message
