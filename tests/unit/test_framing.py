"""Messages over pipes: whole ones in any pieces, and what is said of damaged ones."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.test_wire import assert_same, instances_of
from tplaunch.coordinator import framing
from tplaunch.coordinator.framing import HEADER, MARK, MAX_MESSAGE_BYTES, MessageReader, framed
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.wire import WireError
from tplaunch.worker.jobs import figures, messages
from tplaunch.worker.jobs.figures import FIGURE_ANSWERS, PairFigures
from tplaunch.worker.jobs.messages import (
    CHECK_ANSWERS,
    COLLECTIVE_ANSWERS,
    JOBS,
    STEPS_ANSWERS,
    Begin,
    CheckJob,
    CollectiveJob,
    Meeting,
    Product,
    Speed,
    Timings,
    Tuning,
    TuningJob,
)
from tplaunch.worker.jobs.pipe import JobPipe
from tplaunch.worker.ops.attention import Alibi, Attention

KINDS = tuple(
    dict.fromkeys(
        (
            *JOBS,
            *CHECK_ANSWERS,
            *COLLECTIVE_ANSWERS,
            *STEPS_ANSWERS,
            *FIGURE_ANSWERS,
            Begin,
            PairFigures,
            Speed,
            Tuning,
        )
    )
)
JOB = TuningJob(
    "f16",
    "q8",
    (Product("Q8_0", 96, 64, "f32"),),
    (Attention("keys", "values", 4, 2, 0, 2, 16, 16, 0.25, alibi=Alibi(8.0, 0, 4)),),
    RankOptions(validate=True, without=("int64",)),
)


def read(data: bytes, kinds: tuple[type, ...] = KINDS) -> list[Any]:
    reader = MessageReader(kinds)
    found = list(reader.feed(data))
    reader.close()
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not CollectiveJob], ids=str)
@given(data=st.data())
@examples(15)
def test_every_message_comes_back_in_any_pieces(kind: type, data: st.DataObject) -> None:
    sent = data.draw(st.lists(instances_of(kind), max_size=3))
    stream = b"".join(map(framed, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    reader = MessageReader(KINDS)
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += list(reader.feed(stream[start:stop]))
    reader.close()
    assert_same(tuple(found), tuple(sent))


def test_jobs_come_back_whole() -> None:
    collective = CollectiveJob("zmq-ring", 2, (16, 64), (5, 6), b"token", "/tmp/folder", 1.5)
    assert read(framed(JOB) + framed(collective)) == [JOB, collective]
    with pytest.raises(WireError, match="2 sizes with 1 numbers of calls"):
        read(framed(collective).replace(b"\x92\x05\x06", b"\x91\x05").replace(*_shorter(collective)))


def _shorter(message: Any) -> tuple[bytes, bytes]:
    length = len(framed(message)) - HEADER.size
    return HEADER.pack(MARK, length), HEADER.pack(MARK, length - 1)


def test_every_message_of_jobs_is_known() -> None:
    inner = {"Measurement", "Product", "StepPoint"}  # parts of messages
    declared = {
        name
        for module in (messages, figures)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    assert {kind.__name__ for kind in KINDS} == declared - inner


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"llvmpipe: warning", "no message begins with b'llvmpipe: warning'"),
        (framed(Speed(1.0)) + b"warning", "no message begins with b'warning'"),
        (MARK, "it ends inside a message, 4 bytes after its beginning"),
        (framed(Speed(1.0))[:-1], "it ends inside a message"),
        (
            HEADER.pack(MARK, MAX_MESSAGE_BYTES + 1),
            "16777217 bytes, where 16777216 are possible",
        ),
        (HEADER.pack(MARK, 0), "no msgpack"),
        (HEADER.pack(MARK, 3) + b"\xc1\xc1\xc1", "no msgpack"),
        (framed(JOB).replace(b"Q8_0", b"Q8_\xff"), "no msgpack"),
        (framed(JOB).replace(b"TuningJob", b"TunungJob"), "a message of the unknown type 'TunungJob'"),
        (framed(JOB).replace(b"products", b"prodacts"), "the fields of TuningJob are kv_type"),
        (framed(JOB).replace(b"int64", b"int65"), "--without int65: known are int64"),
    ],
)
def test_damaged_messages_are_sentences(data: bytes, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        read(data)


@given(place=st.integers(0, len(framed(JOB)) - 1), byte=st.integers(0, 255))
@examples(300)
def test_a_wrong_byte_is_another_job_or_an_error_and_nothing_else(place: int, byte: int) -> None:
    data = bytearray(framed(JOB))
    data[place] = byte
    try:
        assert all(isinstance(job, TuningJob) for job in read(bytes(data), JOBS))
    except WireError as error:
        assert str(error)


def test_a_message_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_MESSAGE_BYTES", 1000)
    assert read(framed(Timings((((1.0,) * 90,),)))) == [Timings((((1.0,) * 90,),))]
    with pytest.raises(ValueError, match="Timings has more than a message's 1000 bytes"):
        framed(Timings((((1.0,) * 200,),)))


def pipe_of(path: Path, data: bytes, output: io.BytesIO) -> JobPipe:
    path.write_bytes(data)
    return JobPipe(os.open(path, os.O_RDONLY), output, (*JOBS, Meeting))


def test_a_job_takes_one_message_at_a_time_and_answers(tmp_path: Path) -> None:
    output = io.BytesIO()
    meeting = Meeting(("a", "b"))
    pipe = pipe_of(tmp_path / "job", framed(JOB) + framed(meeting) + framed(JOB), output)
    assert pipe.receive() == JOB
    assert pipe.expect(Meeting) == meeting
    pipe.send(Speed(2.0))
    assert read(output.getvalue()) == [Speed(2.0)]
    with pytest.raises(WireError, match="TuningJob came where Meeting was expected"):
        pipe.expect(Meeting)
    with pytest.raises(WireError, match="there is no message"):
        pipe.receive()


def test_a_job_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    job = CheckJob(3, options=replace(RankOptions(), staging=True))
    with pytest.raises(WireError, match="it ends inside a message"):
        pipe_of(tmp_path / "job", framed(job)[:-3], io.BytesIO()).receive()
