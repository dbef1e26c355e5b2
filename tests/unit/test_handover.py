"""Handing over between stages: every rank gets the same numbers, of the right step, or a named error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.collectives import CollectiveAborted, CollectiveError, CollectiveTimeout, Handover
from tplaunch.collectives.handover import Way, ways
from tplaunch.collectives.zmq_wire import PIECE_ELEMENTS

pytestmark = pytest.mark.unit

Floats = npt.NDArray[np.float32]

DIGEST = b"12345678"
PLACES = {  # hosts and stages by rank
    "two on one host": ([0, 0], [0, 1]),
    "two hosts": ([0, 1], [0, 1]),
    "two ranks a stage": ([0, 0, 0, 0], [0, 0, 1, 1]),
    "two ranks a stage and host": ([0, 0, 1, 1], [0, 0, 1, 1]),
    "a stage on two hosts": ([0, 0, 1, 1], [0, 1, 1, 1]),
    "both stages on two hosts": ([0, 0, 1, 1], [0, 1, 0, 1]),
    "three stages on three hosts": ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
    "three stages on one host": ([0, 0, 0], [0, 1, 2]),
}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def all_ranks(
    stack: ExitStack, folder: Path, hosts: Sequence[int], stages: Sequence[int], seconds: float = 20.0
) -> list[Handover]:
    """The ranks' ends, connected."""
    made = []
    for rank in range(len(hosts)):
        made.append(Handover(rank=rank, hosts=hosts, stages=stages, token=b"t" * 16, timeout_seconds=seconds,
                             folder=folder))  # fmt: skip
        stack.callback(made[-1].close)
    endpoints = [one.endpoints for one in made]
    together([lambda one=one: one.connect(endpoints) for one in made])
    return made


def send(rank: Handover, step: int, values: Floats) -> None:
    rank.begin_step(step, DIGEST)
    rank.send(values)


def receive_into(rank: Handover, step: int, values: Floats, digest: bytes = DIGEST) -> None:
    rank.begin_step(step, digest)
    rank.receive(values)


def together(calls: Sequence[object]) -> list[BaseException | None]:
    """Makes calls in a thread each; returns what they raised."""
    found: list[BaseException | None] = [None] * len(calls)

    def make(index: int) -> None:
        try:
            calls[index]()  # type: ignore[operator]
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=make, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@given(
    hosts=st.lists(st.integers(0, 1), min_size=1, max_size=8).map(
        lambda steps: np.cumsum([0, *steps[1:]]).tolist()
    ),
    random=st.randoms(use_true_random=False),
    num_stages=st.integers(1, 4),
)
@examples(200)
def test_everyone_is_reached_once_and_each_host_by_one_message(
    hosts: list[int], random: object, num_stages: int
) -> None:
    num_stages = min(num_stages, len(hosts))
    stages = [*range(num_stages), *(random.randrange(num_stages) for _ in hosts[num_stages:])]  # type: ignore[attr-defined]
    random.shuffle(stages)  # type: ignore[attr-defined]
    found = ways(hosts, stages)
    for stage in range(num_stages):
        incoming = [rank for way in found if way.stage == stage - 1 for rank in way.ranks[1:]]
        assert sorted(incoming) == [r for r, s in enumerate(stages) if s == stage and stage > 0]
    for way in found:
        others = [hosts[rank] for rank in way.ranks[1:]]
        if way.between_hosts:
            assert hosts[way.ranks[0]] not in others and len(set(others)) == len(others)
        else:
            assert set(others) == {hosts[way.ranks[0]]}
    for stage in range(num_stages - 1):
        crossing = [way for way in found if way.stage == stage and way.between_hosts]
        assert len(crossing) <= 1
        assert all(way.ranks[0] == stages.index(stage) for way in crossing)


def test_one_stage_has_no_way(folder: Path) -> None:
    assert ways([0, 0, 1], [0, 0, 0]) == []
    alone = Handover(rank=0, hosts=[0], stages=[0], token=b"t" * 16, timeout_seconds=1, folder=folder)
    alone.connect([()])
    assert not alone.sends and not alone.receives and alone.endpoints == () and not alone.sent_bytes
    alone.abort("nobody hears it")
    alone.close()
    assert not list(folder.iterdir())


def test_ways_of_a_stage_on_two_hosts() -> None:
    """Once to the other host, whose first rank passes it on."""
    assert ways([0, 0, 1, 1], [0, 1, 1, 1]) == [
        Way(0, (0, 1), False), Way(0, (0, 2), True), Way(0, (2, 3), False)
    ]  # fmt: skip


@pytest.mark.parametrize(("hosts", "stages"), PLACES.values(), ids=PLACES)
def test_every_rank_of_a_stage_gets_the_same(
    hosts: list[int], stages: list[int], folder: Path, opened: ExitStack
) -> None:
    """Steps of many pieces and of one, one behind the other, sent before anyone waits for them."""
    ranks = all_ranks(opened, folder, hosts, stages)
    random = np.random.default_rng(0)
    counts = [PIECE_ELEMENTS * 2 + 96, 32, 32, PIECE_ELEMENTS]
    sent = [[random.random(count, np.float32) for count in counts] for _ in range(max(stages))]
    for stage in range(max(stages)):
        (sender,) = (rank for rank, one in enumerate(ranks) if stages[rank] == stage and one.sends)
        for number, values in enumerate(sent[stage], 1):
            send(ranks[sender], number, values)
        got: dict[int, list[bytes]] = {rank: [] for rank, found in enumerate(stages) if found == stage + 1}

        def receive(rank: int, got: dict[int, list[bytes]] = got) -> None:
            assert ranks[rank].receives
            for number, count in enumerate(counts, 1):
                values = np.zeros(count, np.float32)
                receive_into(ranks[rank], number, values)
                got[rank].append(values.tobytes())

        assert not any(together([lambda rank=rank: receive(rank) for rank in got]))
        assert set(map(tuple, got.values())) == {tuple(values.tobytes() for values in sent[stage])}


@pytest.mark.parametrize(
    ("step", "digest", "count", "sentence"),
    [
        (2, DIGEST, 64, "rank 0 is in step 1, rank 1 in step 2"),
        (1, b"another!", 64, "rank 0 and rank 1 were given different steps 1"),
        (1, DIGEST, 32, "has 32 elements on rank 1 but 64 on rank 0"),
    ],
)
def test_another_step_is_refused(
    step: int, digest: bytes, count: int, sentence: str, folder: Path, opened: ExitStack
) -> None:
    first, second = all_ranks(opened, folder, [0, 0], [0, 1])
    send(first, 1, np.ones(64, np.float32))
    with pytest.raises(CollectiveError, match=sentence) as caught:
        receive_into(second, step, np.zeros(count, np.float32), digest)
    assert caught.value.rank == 0


def test_who_does_not_send_is_named(folder: Path, opened: ExitStack) -> None:
    """Each stage has its time: a later one waits longer, and blames the one before it."""
    ranks = all_ranks(opened, folder, [0, 0, 0], [0, 1, 2], seconds=0.2)
    for rank, seconds in ((1, 0.2), (2, 0.4)):
        began = time.monotonic()
        sentence = (
            f"rank {rank} of stage {rank} waited {seconds:g} s in step 7 for rank {rank - 1}, which sends"
        )
        with pytest.raises(CollectiveTimeout, match=sentence) as caught:
            receive_into(ranks[rank], 7, np.zeros(32, np.float32))
        assert caught.value.rank == rank - 1 and time.monotonic() - began >= seconds


def test_an_abort_reaches_who_waits(folder: Path, opened: ExitStack) -> None:
    ranks = all_ranks(opened, folder, [0, 0, 1, 1], [0, 1, 1, 1])
    calls = [lambda one=one: receive_into(one, 1, np.zeros(32, np.float32)) for one in ranks[1:3]]
    errors = together([*calls, lambda: ranks[0].abort("its device is gone")])
    for error in errors[:2]:
        assert isinstance(error, CollectiveAborted) and str(error) == "rank 0 aborted: its device is gone"


def test_endpoints_that_are_missing_are_refused(folder: Path, opened: ExitStack) -> None:
    made = Handover(rank=0, hosts=[0, 0], stages=[0, 1], token=b"t" * 16, timeout_seconds=1, folder=folder)
    opened.callback(made.close)
    with pytest.raises(CollectiveError, match="rank 1 told 0 endpoints for its 1 ways"):
        made.connect([made.endpoints, ()])
    with pytest.raises(CollectiveError, match="rank 0 cannot connect to rank 1 at"):
        made.connect([made.endpoints, ("../elsewhere",)])
