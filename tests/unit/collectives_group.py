"""A whole collective in one process, a thread a rank."""

import gc
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tplaunch import collectives
from tplaunch.collectives import Collective, CollectiveError

OVER_TCP = " over TCP"
SOON_SECONDS = 5.0
ON_HOSTS = " on two hosts"  # the first half of the ranks on one, the others on the other
KINDS = (*collectives.KINDS, "zmq-ring" + OVER_TCP, "zmq" + OVER_TCP, "shared-memory" + ON_HOSTS)


def create(kind: str, *, folder: Path | None = None, **arguments: Any) -> Collective:
    """kind: one of KINDS."""
    name = kind.removesuffix(OVER_TCP).removesuffix(ON_HOSTS)
    if kind.endswith(ON_HOSTS):
        num_ranks = max(1, arguments["num_ranks"])
        arguments["hosts"] = [2 * rank // num_ranks for rank in range(arguments["num_ranks"])]
    return collectives.create(name, folder=None if kind.endswith(OVER_TCP) else folder, **arguments)


def on_ranks(ranks: Sequence[Collective], function: Callable[[Collective], Any]) -> list[Any]:
    """Calls the function on all ranks at once; returns its results, or the CollectiveErrors it raises."""

    def call(rank: Collective) -> Any:
        try:
            return function(rank)
        except CollectiveError as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(call, ranks))


def checked_all_reduce(rank: Collective, sequence: int, count: int) -> None:
    """All-reduces whole numbers, whose sum is exact."""
    parity = sequence % 2
    values = rank.partials(parity)
    rank.own(parity)[:count] = np.arange(count) % 100 + sequence * (rank.rank + 1)
    rank.all_reduce(sequence, parity, count)
    size = rank.num_ranks
    expected = size * (np.arange(count) % 100) + sequence * size * (size + 1) // 2
    np.testing.assert_array_equal(values[:, :count].sum(axis=0), expected)


@contextmanager
def soon(ranks: Sequence[Collective]) -> Iterator[None]:
    """Asserts that no rank waits for a timeout: by its own clock, in which only time counts that it ran."""
    began = [rank._clock() for rank in ranks]
    yield
    assert all(rank._clock() - then < SOON_SECONDS for rank, then in zip(ranks, began, strict=True))


def open_things() -> tuple[int, int]:
    """How many files and threads, Python's and others, this process has."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


@contextmanager
def unconnected(
    kind: str | Callable[..., Collective],
    num_ranks: int,
    *,
    slot_bytes: int = 20000,
    timeout_seconds: float = 30.0,
) -> Iterator[list[Collective]]:
    """kind: one of KINDS, or what to call with a rank's arguments."""
    token = secrets.token_bytes(collectives.TOKEN_BYTES)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ranks: list[Collective] = []
        for rank in range(num_ranks):
            common = {"num_ranks": num_ranks, "slot_bytes": slot_bytes, "timeout_seconds": timeout_seconds}
            arguments: dict[str, Any] = {"rank": rank, "token": token, **common}
            if isinstance(kind, str):
                made = create(kind, folder=Path(folder), **arguments)
            else:
                made = kind(**arguments)
            stack.callback(made.close)
            ranks.append(made)
        yield ranks


@contextmanager
def connected(
    kind: str | Callable[..., Collective], num_ranks: int, **options: Any
) -> Iterator[list[Collective]]:
    with unconnected(kind, num_ranks, **options) as ranks:
        endpoints = [rank.endpoint for rank in ranks]
        assert on_ranks(ranks, lambda rank: rank.connect(endpoints)) == [None] * num_ranks
        yield ranks
