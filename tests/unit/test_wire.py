"""Messages survive the wire, and nothing but WireError comes of what is no message."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from typing import Annotated, Any, Union, get_args, get_origin

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, SPEC, examples
from tplaunch.coordinator import messages
from tplaunch.coordinator.encoding import SHORT, decode, encode
from tplaunch.coordinator.gguf.origin import FilePart, Origin
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.messages import (
    HOST_KINDS,
    NO_FLOATS,
    Advance,
    Answer,
    Failed,
    Hello,
    Load,
    Message,
    Shutdown,
    Step,
    StepDone,
)
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.options import (
    ALL_REDUCES,
    DISPENSABLE,
    MAX_CPU_THREADS,
    SUMS,
    WAITINGS,
    WIRES,
    RankOptions,
)
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import MAX_GROUP, MAX_RANKS, RankShare, Span
from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.worker.jobs.messages import StepPoint

KINDS: tuple[type, ...] = get_args(Message)
INT32S = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9).map(lambda items: np.array(items, np.int32))
FLOAT64S = st.lists(st.floats(), max_size=9).map(lambda items: np.array(items, np.float64))
# Within the first frame, and in a frame of their own.
FLOAT32S = st.builds(
    lambda items, times: np.tile(np.array(items, np.float32), times),
    st.lists(st.floats(width=32), max_size=9),
    st.sampled_from([1, 1, 1, 1000]),
)
ARRAYS = {np.int32: INT32S, np.float64: FLOAT64S, np.float32: FLOAT32S}
COUNT = st.integers(1, 2**31 - 1)
# Dataclasses whose fields must fit together: varied only where they may be.
SPECIAL: dict[type, st.SearchStrategy[Any]] = {
    Span: st.tuples(COUNT, COUNT).map(lambda ends: Span(min(ends), max(ends))),
    ModelSpec: st.builds(
        dataclasses.replace,
        st.just(SPEC),
        architecture=st.text(),
        context_length=COUNT,
        vocabulary_size=COUNT,
    ),
    Limits: st.builds(Limits, COUNT, COUNT, COUNT, COUNT, COUNT, st.sampled_from(sorted(KV_TYPES))),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that an annotation allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ARRAYS[arguments[1]]
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if hint in SPECIAL:
        return SPECIAL[hint]
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return instances_of(hint)
    if hint is str:
        return st.text()
    if hint is int:
        return st.integers(-(2**63), 2**63 - 1)
    return st.from_type(hint)


def instances_of(kind: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {name: values_of(hint) for name, hint in hints.items()}
    if kind is Load:
        fields["placement"] = st.just(
            Placement((0,) * 5 + (1,) * (MAX_RANKS - 5), tuple(range(8)) * (MAX_RANKS // 8))
        )
    elif kind is RankOptions:
        fields |= {
            "collective": st.just("shared-memory"),
            "all_reduce": st.sampled_from(ALL_REDUCES),
            "waiting": st.sampled_from(WAITINGS),
            "sums": st.sampled_from(SUMS),
            "wire": st.sampled_from(WIRES),
            "timeout_seconds": st.floats(1e-3, 1e5),
            "cpu_threads": st.integers(0, MAX_CPU_THREADS),
            "without": st.lists(st.sampled_from(DISPENSABLE)).map(tuple),
        }
    elif kind is StepPoint:
        fields |= {"rows": COUNT, "sequences": COUNT, "position": COUNT}
    elif kind is RankShare:
        fields["rank"] = st.integers(0, MAX_RANKS - 1)
    return st.builds(kind, **fields)


def assert_same(found: Any, sent: Any) -> None:
    """Equal, and of the same types all the way down; NaN is equal to NaN."""
    assert type(found) is type(sent)
    if dataclasses.is_dataclass(sent):
        for field in dataclasses.fields(sent):
            assert_same(getattr(found, field.name), getattr(sent, field.name))
    elif isinstance(sent, np.ndarray):
        assert found.dtype == sent.dtype
        np.testing.assert_array_equal(found, sent)
    elif isinstance(sent, tuple):
        assert len(found) == len(sent)
        for one, other in zip(found, sent, strict=True):
            assert_same(one, other)
    elif isinstance(sent, dict):
        assert_same(tuple(found.items()), tuple(sent.items()))
    else:
        assert found == sent or (math.isnan(found) and math.isnan(sent))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@examples(60)
def test_every_message_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    message = data.draw(instances_of(kind))
    assert_same(decode(encode(message)), message)


def usual_answers() -> st.SearchStrategy[StepDone]:
    """Answers of candidates and the host's times alone, which have a short form."""

    def answer(counts: Any, candidates: list[tuple[int, float]]) -> Answer:
        ids, logits = zip(*candidates, strict=True) if candidates else ((), ())
        return Answer(counts, np.array(ids, np.int32), np.array(logits, np.float32))

    candidate = st.tuples(st.integers(-(2**31), 2**31 - 1), st.floats(width=32))
    numbers = st.integers(-(2**63), 2**63 - 1)
    ledger = st.lists(st.floats(), min_size=4, max_size=4).map(lambda times: dict(zip(HOST_KINDS, times)))
    return st.builds(
        lambda number, ledger, answer, sent_bytes: StepDone(
            number, NO_FLOATS, ledger, (), answer, sent_bytes
        ),
        numbers,
        ledger,
        st.builds(answer, INT32S, st.lists(candidate, max_size=9)),
        numbers,
    )


@given(usual_answers())
@examples(100)
def test_a_usual_answer_comes_back_from_its_short_form(done: StepDone) -> None:
    frames = encode(done)
    assert len(frames) == 1 and frames[0][0] == SHORT
    assert_same(decode(frames), done)
    assert_same(decode([memoryview(frames[0])]), done)


UNUSUAL: dict[str, Any] = {
    "laps": (messages.Lap("host", 1.0, 2.0),),
    "logits": np.ones(3, np.float32),
    "ledger": {"wait": 1.0, "host": 2.0, "submit": 3.0, "reduce": 4.0},
    "answer": Answer(log_sums=np.ones(1)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_answer_comes_back_as_it_was(name: str) -> None:
    usual = StepDone(7, NO_FLOATS, dict.fromkeys(HOST_KINDS, 1.0))
    assert encode(usual)[0][0] == SHORT
    done = dataclasses.replace(usual, **{name: UNUSUAL[name]})
    frames = encode(done)
    assert frames[0][0] != SHORT
    assert_same(decode(frames), done)


ADVANCE_FRAME = bytes(encode(Advance(7, np.array([5, 6], np.int32)))[0])
DONE_FRAME = bytes(encode(StepDone(7, NO_FLOATS, dict.fromkeys(HOST_KINDS, 1.0)))[0])


@pytest.mark.parametrize(
    "frame",
    [
        ADVANCE_FRAME[:1],
        ADVANCE_FRAME[:2],
        ADVANCE_FRAME[:15],
        ADVANCE_FRAME[:-1],
        ADVANCE_FRAME[:-2],
        bytes((SHORT, 0)) + ADVANCE_FRAME[2:],
        bytes((SHORT, 3)) + DONE_FRAME[2:],
        DONE_FRAME[:-1],
        DONE_FRAME + bytes(4),
        DONE_FRAME[:4] + (2**32 - 1).to_bytes(4, "little") + DONE_FRAME[8:],
        DONE_FRAME[:4] + (1).to_bytes(4, "little") + DONE_FRAME[8:],
    ],
)
def test_a_short_form_of_another_length_or_kind_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode([frame])


def test_a_short_form_has_one_frame() -> None:
    with pytest.raises(WireError):
        decode([ADVANCE_FRAME, b"1234"])


def test_large_arrays_are_not_copied() -> None:
    done = StepDone(1, np.arange(10_000, dtype=np.float32), {"wait": 1.0})
    frames = encode(done)
    assert len(frames) == 2 and len(frames[0]) < 200
    assert np.shares_memory(np.frombuffer(frames[1], np.float32), done.logits)
    received = decode(frames)
    assert isinstance(received, StepDone) and np.shares_memory(received.logits, done.logits)


def test_every_message_type_is_known() -> None:
    declared = {
        value
        for value in vars(messages).values()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == messages.__name__
    }
    assert set(KINDS) == declared - {messages.Lap, messages.Wanted, messages.Answer}  # parts of messages


READY: dict[str, Any] = {"device_bytes": 1, "sharing": "import", "copy_bandwidth": 0.0}
ANSWER = {"counts": b"", "ids": b"", "logits": b"", "log_sums": b"", "asked": b""}
DONE: dict[str, Any] = {
    **{"number": 1, "logits": None, "ledger": {}, "laps": [], "answer": ANSWER}, "sent_bytes": 0
}  # fmt: skip
WANTED = {"num_candidates": b"", "sum_rows": b"", "asked_rows": b"", "asked_ids": b"", "whole_rows": b""}


def message_of(name: str, fields: Any, *arrays: bytes) -> list[Frame]:
    return [msgpack.packb([name, fields]), *arrays]


HELLO = {"version": 1, "rank": 2}
READY = {
    "device_bytes": 1, "sharing": "import", "copy_bandwidth": 0.0, "notes": [],
    "tells_prompts_apart": False, "prompts": "f32", "prompt_rows": 64,
    "most_row_keys": 0,
}  # fmt: skip
HELLO_FRAME: bytes = msgpack.packb(["Hello", HELLO])
STEP = {
    "number": 1, "token_ids": b"\0" * 4, "runs": b"\0" * 20, "logit_rows": b"",
    "tables": b"\0" * 12, "window_tables": b"", "copies": b"", "window_copies": b"", "wanted": WANTED,
    "of_prompts": False,
}  # fmt: skip


def test_the_plain_messages_are_accepted() -> None:
    """The mutations below fail for their one reason."""
    assert decode(message_of("Hello", HELLO)) == Hello(1, 2)
    assert isinstance(decode(message_of("Step", STEP)), Step)
    assert decode(message_of("Shutdown", {})) == Shutdown()


def test_empty_arrays_are_not_sent() -> None:
    sent = {"number": 1, "token_ids": b"\0" * 4, "runs": b"\0" * 20, "tables": b"\0" * 12, "wanted": {}}
    sent["of_prompts"] = True
    step = decode(message_of("Step", sent))
    assert isinstance(step, Step) and step.token_ids.tolist() == [0]
    for array in (step.logit_rows, step.copies, step.wanted.num_candidates):
        assert array.dtype == np.int32 and array.size == 0 and not array.flags.writeable
    (frame,) = encode(step)
    assert msgpack.unpackb(frame) == ["Step", sent]
    with pytest.raises(WireError, match="the fields of Step are number, token_ids"):
        decode(message_of("Step", {name: item for name, item in sent.items() if name != "number"}))


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (message_of("Bye", {}), "a message of the unknown type 'Bye'"),
        (message_of("Message", {}), "a message of the unknown type 'Message'"),
        (message_of("ModelSpec", {}), "a message of the unknown type 'ModelSpec'"),
        (message_of("Hello", {**HELLO, "extra": 1}), "the fields of Hello are version, rank"),
        (message_of("Hello", {"version": 1}), "the fields of Hello are version, rank"),
        (message_of("Hello", [1, 2, 3]), "the fields of Hello are"),
        (message_of("Hello", None), "the fields of Hello are"),
        (message_of("Hello", {**HELLO, "rank": True}), "Hello: True is no int"),
        (message_of("Hello", {**HELLO, "rank": 1.0}), "Hello: 1.0 is no int"),
        (message_of("Hello", {**HELLO, "rank": "1"}), "Hello: '1' is no int"),
        (message_of("Hello", {**HELLO, "rank": None}), "Hello: None is no int"),
        (
            message_of(
                "Attached", {"model_hash": b"", "device": "", "kind": "", "endpoint": "", "handovers": []}
            ),
            "b'' is no str",
        ),
        (message_of("Connect", {"endpoints": "abc", "kinds": [], "handovers": []}), "'abc' is no list"),
        (message_of("Connect", {"endpoints": [1], "kinds": [], "handovers": []}), "1 is no str"),
        (
            message_of("Ready", {**READY, "tells_prompts_apart": 1}),
            "1 is no bool",
        ),
        (message_of("Failed", {"error": "", "culprit": False}), "False is no int"),
        (
            message_of("StepDone", {**DONE, "ledger": {"a": "b"}}, b""),
            "'b' is no float",
        ),
        (
            message_of("StepDone", {**DONE, "ledger": {"a": True}}, b""),
            "True is no float",
        ),
        (message_of("StepDone", {**DONE, "ledger": []}, b""), r"\[\] is no dict"),
        (message_of("StepDone", {**DONE, "logits": "1234"}, b""), "'1234' is no bytes"),
        (message_of("StepDone", {**DONE, "logits": b"12345"}), "StepDone: "),
        (message_of("StepDone", {**DONE, "answer": {**ANSWER, "log_sums": b"1234"}}, b""), "Answer: "),
        (message_of("StepDone", DONE, b"12345"), "StepDone: "),
        (message_of("StepDone", DONE), "StepDone: the frame of an array is missing"),
        (message_of("StepDone", DONE, b"", b""), "StepDone with 2 frames of arrays, more than it has"),
        (message_of("Hello", HELLO, b"1234"), "Hello with 1 frames of arrays, more than it has"),
        ([], "no frames"),
        (message_of("Step", {**STEP, "tables": "abcd"}), "'abcd' is no bytes"),
        (message_of("Step", {**STEP, "tables": [1]}), r"\[1\] is no bytes"),
        ([msgpack.packb(["Hello"])], "not a name with fields"),
        ([msgpack.packb(["Hello", HELLO, 1])], "not a name with fields"),
        ([msgpack.packb([1, HELLO])], "not a name with fields"),
        ([msgpack.packb([["Hello"], HELLO])], "not a name with fields"),
        ([msgpack.packb({"Hello": HELLO})], "not a name with fields"),
        ([msgpack.packb({1: 2})], "no msgpack"),
        ([msgpack.packb(["Hello", msgpack.ExtType(5, b"x")])], "the fields of Hello are"),
        ([msgpack.packb(["Hello", {**HELLO, "rank": msgpack.Timestamp(1)}])], "is no int"),
        ([b""], "no msgpack"),
        ([b"\xc1"], "no msgpack"),
        ([b"\x91" * 3000], "no msgpack"),
        ([HELLO_FRAME + b"\0"], "no msgpack"),
        ([HELLO_FRAME[:-1]], "no msgpack"),
        ([b"\x92\xa5\xff\xff\xff\xff\xff\x80"], "no msgpack"),
    ],
)
def test_what_is_no_message_is_refused(frames: list[Frame], sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        decode(frames)


@pytest.mark.parametrize("name", sorted(set(STEP) - {"number", "wanted"}))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 4001])
def test_arrays_of_odd_lengths_are_refused(name: str, size: int) -> None:
    with pytest.raises(WireError, match="Step: "):
        decode(message_of("Step", {**STEP, name: b"\0" * size}))


@pytest.mark.parametrize("name", [b"/caf\xe9.gguf", "/caf\u00e9.gguf".encode(), b"\xff\xfe", b"\xed\xa0\x80"])
def test_names_of_files_are_bytes(name: bytes) -> None:
    origin = Origin((FilePart(os.fsdecode(name), 1),), "h")
    load = Load(origin, SPEC, (), share_of_one(), Placement.single(1), LIMITS, RankOptions(), b"t" * 16)
    received = decode(encode(load))
    assert isinstance(received, Load)
    assert os.fsencode(received.origin.parts[0].path) == name
    failed = Failed(f"can't read {os.fsdecode(name)}", None)
    assert decode(encode(failed)) == failed


def plain_load() -> Any:
    load = Load(
        Origin((FilePart("m", 1),), "h"),
        SPEC,
        (),
        share_of_one(),
        Placement.single(1),
        LIMITS,
        RankOptions(),
        b"t" * 16,
    )
    return msgpack.unpackb(encode(load)[0])


def everywhere(num_ranks: int) -> dict[str, list[int]]:
    return {"hosts": [0] * num_ranks, "stages": [0] * num_ranks}


def share_of_one() -> Any:
    from tplaunch.coordinator.split.plan import make_plan

    return make_plan(SPEC, [1])[0]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("spec", "layers"), [], "no layers"),
        (("spec", "layers", 0, "attention", "num_kv_heads"), 3, "not a multiple of 3"),
        (("spec", "ropes", 0, "dimension"), 7, "rope dimension"),
        (("spec", "ropes", 0, "interleaved"), 1, "1 is no bool"),
        (("spec", "norm", "epsilon"), math.nan, "norm epsilon"),
        (("share", "layers", 0, "heads", "stop"), -1, "a span from 0 to -1"),
        (("placement",), everywhere(MAX_RANKS + 1), "rank 0 of 65, where 1 to 64 are possible"),
        (("placement",), everywhere(MAX_GROUP + 1), "9 ranks in one stage, where 1 to 8 are possible"),
        (("placement",), everywhere(0), "0 hosts for 0 stages"),
        (("placement", "stages"), [1 << 40], "the ranks' stages are"),
        (("share", "rank"), -1, "rank -1 of 1"),
        (("limits", "max_rows"), 0, "max_rows is 0"),
        (("limits", "kv_type"), "q4", "KV type 'q4'"),
        (("limits", "activations"), "q4", "activations 'q4'"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    path: tuple[str | int, ...], value: Any, sentence: str
) -> None:
    name, fields = plain_load()
    assert encode(decode(message_of(name, fields))) == message_of(name, fields)
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(WireError, match=sentence):
        decode(message_of(name, fields))


def test_integers_pass_for_floats_but_not_the_other_way_round() -> None:
    done = decode(message_of("StepDone", {**DONE, "ledger": {"a": 3}}, b""))
    assert isinstance(done, StepDone)
    assert_same(done.ledger, {"a": 3.0})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.binary(max_size=200) | PLAIN.map(msgpack.packb))
@examples(400)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode([data])


@given(st.data())
@examples(400)
def test_wrong_fields_are_refused_or_harmless(data: st.DataObject) -> None:
    """One field of a true message, anywhere in it, becomes something else."""
    name, fields = data.draw(
        st.sampled_from([plain_load(), ["Hello", dict(HELLO)], ["Step", dict(STEP)]]).map(
            lambda message: msgpack.unpackb(msgpack.packb(message))
        )
    )
    inner = fields
    key = data.draw(st.sampled_from(sorted(inner)))
    while isinstance(inner[key], dict) and data.draw(st.booleans()):
        inner = inner[key]
        key = data.draw(st.sampled_from(sorted(inner)))
    inner[key] = data.draw(PLAIN)
    try:
        found = decode(message_of(name, fields))
    except WireError as error:
        assert len(str(error)) < 500
    else:
        assert type(found).__name__ == name


@given(st.data())
@examples(300)
def test_damaged_bytes_are_refused_or_a_message(data: st.DataObject) -> None:
    first, *arrays = encode(data.draw(st.one_of([usual_answers(), *(instances_of(kind) for kind in KINDS)])))
    damaged = bytearray(first)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode([bytes(damaged), *arrays])
    except WireError:
        return
    assert isinstance(found, KINDS)
