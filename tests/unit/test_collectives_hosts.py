"""Tests all-reduces among ranks of several hosts: any layout, either way, every wire type, and mix-ups."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.collectives_group import connected, on_ranks, soon, unconnected
from tplaunch import collectives
from tplaunch.collectives import Collective, CollectiveError, CollectiveTimeout, Hierarchical
from tplaunch.collectives.links import Links
from tplaunch.collectives.wire_types import WIRE_TYPES
from tplaunch.collectives.zmq_wire import PIECE_ELEMENTS, Header, Kind

LAYOUTS = ((0, 1), (0, 1, 2), (0, 0, 1), (0, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1, 2, 2), (0, 1, 2, 3, 4))
WIRES = tuple(WIRE_TYPES)
layouts = pytest.mark.parametrize("hosts", LAYOUTS, ids=str)


@contextmanager
def on_hosts(
    hosts: Sequence[int], change: Callable[[dict[str, Any]], dict[str, Any]] = dict, **options: Any
) -> Iterator[list[Collective]]:
    """The ranks of these hosts, connected. change: of a rank's arguments."""
    wire = options.pop("wire", "f32")

    def make(**arguments: Any) -> Collective:
        return collectives.create("shared-memory", **change({"hosts": hosts, "wire": wire, **arguments}))

    with connected(make, len(hosts), **options) as ranks:
        yield ranks


def summed_up(rank: Collective, sequence: int, rows: Any, **way: bool) -> Any:
    """The sum of all ranks' rows [ranks, count], as a device would form it."""
    parity, count = sequence % 2, rows.shape[1]
    rank.own(parity)[:count] = rows[rank.rank]
    rank.all_reduce(sequence, parity, count, **way)
    partials = rank.partials(parity)[:, :count]
    total = partials[0].copy()
    if not way.get("summed"):
        for partial_sum in partials[1:]:
            total += partial_sum
    return total


@settings(max_examples=40, deadline=None)
@given(
    hosts=st.sampled_from(LAYOUTS),
    calls=st.lists(
        st.tuples(st.integers(0, 3 * PIECE_ELEMENTS // 2), st.booleans(), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 9),
)
def test_sums_are_exact_either_way(
    hosts: tuple[int, ...], calls: list[tuple[int, bool, bool]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    summands = [generator.integers(-99, 99, (len(hosts), count)).astype(np.float32) for count, _, _ in calls]

    def run(rank: Collective) -> None:
        for sequence, (rows, (_, summed, exact)) in enumerate(zip(summands, calls, strict=True), 1):
            total = summed_up(rank, sequence, rows, summed=summed, exact=exact)
            np.testing.assert_array_equal(total, rows.sum(axis=0))
            rank.partials(1 - sequence % 2)[:] = np.nan  # the last one's: all must be done with it

    with on_hosts(hosts, slot_bytes=6 * PIECE_ELEMENTS) as ranks:
        assert on_ranks(ranks, run) == [None] * len(hosts)


@layouts
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("summed", [False, True])
def test_every_rank_gets_the_same_bits_and_nearly_the_sum(
    hosts: tuple[int, ...], wire: str, summed: bool
) -> None:
    rows = np.random.default_rng(1).standard_normal((len(hosts), 4097)).astype(np.float32)
    with on_hosts(hosts, wire=wire) as ranks:
        sums = on_ranks(ranks, partial(summed_up, sequence=1, rows=rows, summed=summed))
        exact = on_ranks(ranks, partial(summed_up, sequence=2, rows=rows, summed=summed, exact=True))
    assert len({total.tobytes() for total in sums}) == len({total.tobytes() for total in exact}) == 1
    right = rows.astype(np.float64).sum(axis=0)
    error = {"f32": 1e-5, "bf16": 0.05, "q8": 0.12}[wire] * len(set(hosts))
    np.testing.assert_allclose(sums[0], right, atol=error)
    np.testing.assert_allclose(exact[0], right, atol=1e-5)


def test_one_rank_a_host_adds_as_one_host_does() -> None:
    rows = np.random.default_rng(2).standard_normal((3, 999)).astype(np.float32)
    with on_hosts((0, 1, 2)) as apart, connected("shared-memory", 3) as together:
        reduce = partial(summed_up, sequence=1, rows=rows)
        assert on_ranks(apart, reduce)[0].tobytes() == on_ranks(together, reduce)[0].tobytes()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("count", [1536, 4096, 100_000])
def test_bytes_on_the_wire_are_few(wire: str, summed: bool, count: int) -> None:
    """Within 5 % of what must travel between two hosts, and q8 0.28 of that at most."""
    rows = np.ones((2, count), np.float32)
    with on_hosts((0, 1), wire=wire, slot_bytes=4 * count) as ranks:
        before = [rank.sent_bytes for rank in ranks]
        on_ranks(ranks, partial(summed_up, sequence=1, rows=rows, summed=summed))
        sent = [rank.sent_bytes - first for rank, first in zip(ranks, before, strict=True)]
    limit = {"f32": 1.05, "bf16": 0.53, "q8": 0.28 * 1.03}[wire] * 4 * count
    assert 0 < max(sent) <= limit


def test_different_wire_types_are_refused_on_connecting() -> None:
    def make(**arguments: Any) -> Collective:
        wire = "q8" if arguments["rank"] == 0 else "f32"
        return collectives.create("shared-memory", hosts=(0, 1, 1), wire=wire, **arguments)

    with unconnected(make, 3) as ranks:
        endpoints = [rank.endpoint for rank in ranks]
        for error in on_ranks(ranks, lambda rank: rank.connect(endpoints)):
            assert error is not None
            with pytest.raises(CollectiveError, match=r"rank \d sends sums as .*: all need the same --wire"):
                raise error


@layouts
@pytest.mark.parametrize(
    ("step", "digest", "fault"),
    [
        (8, bytes(8), r"is in step \d, rank \d in step \d|were given different steps"),
        (7, b"another!", "were given different steps"),
    ],
)
def test_ranks_in_different_steps_never_add_up(
    hosts: tuple[int, ...], step: int, digest: bytes, fault: str
) -> None:
    with on_hosts(hosts) as ranks:

        def run(rank: Collective) -> None:
            rank.begin_step(*((step, digest) if rank.rank == len(hosts) - 1 else (7, bytes(8))))
            for sequence in (1, 2):  # not all hosts see it in the first where there are many
                rank.all_reduce(sequence, sequence % 2, 100)

        with soon(ranks):
            errors = on_ranks(ranks, run)
        for error in errors:
            with pytest.raises(CollectiveError, match=fault):
                raise error


def links_of(rank: Collective) -> Links:
    assert isinstance(rank, Hierarchical) and rank._links is not None
    return rank._links


def due(links: Links, **changes: Any) -> Header:
    header = links._header(Kind.PIECE)._replace(sequence=1, elements=9)
    return header._replace(**changes)


@pytest.mark.parametrize("hosts", [(0, 1, 2), (0, 0, 1, 2, 2)], ids=str)
@pytest.mark.parametrize(
    ("changes", "payload", "fault"),
    [
        ({"sequence": 7}, bytes(36), "a piece of all-reduce 7 to rank .*, which awaits one of all-reduce 1"),
        ({"piece": 3}, bytes(36), "sent piece 3 of all-reduce 1 to rank .*, which awaits piece 0"),
        ({"hop": 2}, bytes(36), "sent piece 0 of hop 2 of all-reduce 1"),
        ({"wire": 2}, bytes(36), "sends sums as q8, rank .* as f32"),
        ({"wire": 77}, bytes(36), "sends sums as type 77"),
        ({"elements": 8}, bytes(36), r"all-reduce 1 has 9 elements on rank \d but 8 on rank \d"),
        ({"step": 3}, bytes(36), "is in step 3, rank . in step 0"),
        ({"digest": b"12345678"}, bytes(36), "different steps 0: their digests are 3132333435363738 and 0"),
        ({"run": 1}, bytes(36), "belongs to run 00000001, rank . to run"),
        ({}, bytes(35), "with 35 bytes, not 36"),
    ],
)
def test_a_message_that_is_not_due_is_an_error_on_all_ranks(
    hosts: tuple[int, ...], changes: dict[str, Any], payload: bytes, fault: str
) -> None:
    with on_hosts(hosts) as ranks:
        links = links_of(ranks[-2] if hosts[-2] == hosts[-1] else ranks[-1])
        links._outboxes[0].send(due(links, **changes).message(payload))

        def run(rank: Collective) -> None:
            for sequence in (1, 2):
                rank.all_reduce(sequence, sequence % 2, 9)

        with soon(ranks):
            errors = on_ranks(ranks, run)
        for error in errors:
            assert error is not None
            with pytest.raises(CollectiveError, match=fault):
                raise error


@pytest.mark.parametrize("at", [12, 30, 60])
def test_a_damaged_message_is_an_error_on_all_ranks(at: int) -> None:
    with on_hosts((0, 1, 2)) as ranks:
        links = links_of(ranks[2])
        message = bytearray(due(links).message(bytes(36)))
        message[at] ^= 1
        links._outboxes[0].send(message)

        def run(rank: Collective) -> None:
            for sequence in (1, 2):
                rank.all_reduce(sequence, sequence % 2, 9)

        for error in on_ranks(ranks, run):
            with pytest.raises(CollectiveError, match="rank 2 sent to rank 0 arrived damaged"):
                raise error


def test_errors_name_ranks_as_the_whole_run_does() -> None:
    """A stage's ranks are not counted from 0."""
    change = lambda arguments: {**arguments, "names": (4, 5, 8)}  # noqa: E731
    with on_hosts((0, 0, 1), change, timeout_seconds=1) as ranks:
        errors = on_ranks(ranks[:2], lambda rank: rank.all_reduce(1, 0, 10))
        for error in errors:
            assert isinstance(error, CollectiveTimeout) and error.rank == 8
            assert str(error).endswith("waited 1 s in all-reduce 1 for rank 8")


@pytest.mark.parametrize("aborting", [1, 2, 4])
def test_an_abort_of_any_rank_reaches_waiting_ranks_of_all_hosts(aborting: int) -> None:
    with on_hosts((0, 0, 1, 1, 2)) as ranks:

        def run(rank: Collective) -> None:
            if rank.rank == aborting:
                rank.abort("lost its device")
            for sequence in (1, 2):
                rank.all_reduce(sequence, sequence % 2, 100)

        with soon(ranks):
            errors = on_ranks(ranks, run)
        assert {str(error) for error in errors} == {f"rank {aborting} aborted: lost its device"}


def test_ranks_that_share_memory_are_neighbours() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1, 0\), where those of one are neighbours"):
        collectives.create(
            "shared-memory", rank=0, num_ranks=3, hosts=(0, 1, 0), slot_bytes=1, token=secrets.token_bytes(16)
        )


def test_shared_memory_is_looked_for_among_descriptors_alone(tmp_path: Any) -> None:
    path = tmp_path / "another file"
    path.write_bytes(bytes(9999))
    token = secrets.token_bytes(16)
    rank = collectives.create("shared-memory", rank=1, num_ranks=2, slot_bytes=1, token=token)
    for endpoint in (str(path), "/proc/1/fd/../environ", ""):
        with pytest.raises(CollectiveError, match="that is no process's descriptor"):
            rank.connect([endpoint, ""])
    rank.close()


def test_shared_memory_is_no_file_of_another_program(tmp_path: Any) -> None:
    path = tmp_path / "another file"
    token = secrets.token_bytes(16)
    path.write_bytes(token.ljust(100_000, b"\0"))
    rank = collectives.create("shared-memory", rank=1, num_ranks=2, slot_bytes=1, token=token)
    with path.open("r+b") as file:
        file.truncate(rank._shared._num_bytes)  # type: ignore[attr-defined]
        with pytest.raises(CollectiveError, match="it is a file with a name"):
            rank.connect([f"/proc/{os.getpid()}/fd/{file.fileno()}", ""])
    rank.close()
