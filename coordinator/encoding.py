"""Messages as frames, and frames on a ZeroMQ socket.

Most are as wire.py has it. The two that each generated token takes have a short form where they bring nothing
unusual, a head of fixed size with arrays behind it: between two steps the caches hold none of the code, and
what wire.py executes for a message takes ten times as long then.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import zmq

from tplaunch.coordinator import wire
from tplaunch.coordinator.messages import HOST_KINDS, KNOWN, NO_FLOATS, Advance, Answer, Message, StepDone
from tplaunch.coordinator.wire import Frame, WireError

MAX_FRAMES = 4  # of a message: its fields, and the large arrays of a StepDone
MAX_FRAME_BYTES = 1 << 28  # logits of 32 rows and two million tokens; a connection that brings more is cut
SHORT = 0xC1  # begins a short form, and nothing in msgpack
ADVANCE, DONE = 1, 2  # behind it
_ADVANCE_HEAD = struct.Struct("<BB6xq")  # its number; int32 tokens follow
# Rows with candidates, number, sent bytes, and the ledger by HOST_KINDS; int32 counts of the rows follow,
# then all int32 ids, then all float32 logits.
_DONE_HEAD = struct.Struct("<BB2xIqq4d")


def identity(rank: int) -> bytes:
    """The ZeroMQ routing id of a rank."""
    return f"rank-{rank}".encode()


def encode(message: Message) -> list[Frame]:
    """The frames to send. Large arrays are not copied: the message must not change before they are sent."""
    if isinstance(message, Advance):
        return [_ADVANCE_HEAD.pack(SHORT, ADVANCE, message.number) + message.token_ids.tobytes()]
    if isinstance(message, StepDone) and _is_usual(message):
        answer = message.answer
        head = _DONE_HEAD.pack(
            SHORT,
            DONE,
            answer.counts.size,
            message.number,
            message.sent_bytes,
            *message.ledger.values(),
        )
        return [head + answer.counts.tobytes() + answer.ids.tobytes() + answer.logits.tobytes()]
    return wire.pack(type(message).__name__, message)


def _is_usual(done: StepDone) -> bool:
    """Tells whether it brings candidates and the host's times alone."""
    answer = done.answer
    if done.laps or done.logits.size or answer.log_sums.size or answer.asked.size:
        return False
    return tuple(done.ledger) == HOST_KINDS and answer.ids.size == answer.logits.size


def decode(frames: Sequence[Frame]) -> Message:
    """Large arrays share the frames' memory. Raises wire.WireError for what is no message."""
    if len(frames) == 1 and len(frames[0]) > 1 and frames[0][0] == SHORT:
        return _decode_short(frames[0])
    message: Message = wire.unpack(frames, KNOWN)
    return message


def _decode_short(frame: Frame) -> Advance | StepDone:
    kind, num_bytes = frame[1], len(frame)
    if kind == ADVANCE and num_bytes >= _ADVANCE_HEAD.size and not num_bytes % 4:
        _, _, number = _ADVANCE_HEAD.unpack_from(frame)
        return Advance(number, np.frombuffer(frame, np.int32, -1, _ADVANCE_HEAD.size))
    if kind != DONE or num_bytes < _DONE_HEAD.size:
        raise WireError(f"a short form of kind {kind} and {num_bytes} bytes")
    _, _, num_rows, number, sent_bytes, *times = _DONE_HEAD.unpack_from(frame)
    first_id = _DONE_HEAD.size + 4 * num_rows
    count, rest = divmod(num_bytes - first_id, 8)
    if count < 0 or rest:
        raise WireError(f"an answer of {num_rows} rows in {num_bytes} bytes")
    answer = Answer(
        counts=np.frombuffer(frame, np.int32, num_rows, _DONE_HEAD.size),
        ids=np.frombuffer(frame, np.int32, count, first_id),
        logits=np.frombuffer(frame, np.float32, count, first_id + 4 * count),
    )
    return StepDone(number, NO_FLOATS, dict(zip(HOST_KINDS, times)), (), answer, sent_bytes)


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[Frame]) -> None:
    """Sends the frames of a message, which may change afterwards; send_multipart() takes twice as long."""
    for frame in frames[:-1]:
        socket.send(frame, zmq.SNDMORE)
    socket.send(frames[-1])


def receive_frames(socket: zmq.Socket[bytes], num_names: int = 0, flags: int = 0) -> list[zmq.Frame]:
    """The frames of the next message, behind as many with names as the socket puts before it.

    Of too many frames one too many is returned, which decode() refuses, and the rest is dropped. Raises
    zmq.Again as the socket's options and `flags` (zmq.NOBLOCK) say.
    """
    frames = [frame := socket.recv(flags, copy=False)]
    while frame.more:
        frame = socket.recv(copy=False)
        if len(frames) <= num_names + MAX_FRAMES:
            frames.append(frame)
    return frames
