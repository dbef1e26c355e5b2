"""Workers in the test's own process, a thread a rank; most often one that is the only rank of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.models import LIMITS, load_message, open_model, write_llama
from tplaunch.coordinator.messages import Connect, Message, Step, StepDone
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import DeviceId
from tplaunch.worker.place import WorkerPlace
from tplaunch.worker.rank import Worker


class Deaf(ControlSocket):
    """A socket that no one reads."""

    def __init__(self) -> None:
        pass

    def send(self, message: Message) -> None:
        pass


class Workers:
    """All ranks of a model, which run each step together."""

    def __init__(self, ranks: Sequence[Worker], pool: ThreadPoolExecutor) -> None:
        self.ranks, self._pool = ranks, pool

    def run(self, step: Step) -> list[StepDone]:
        """Returns what each rank says of a step."""
        return list(self._pool.map(lambda rank: rank.run(step), self.ranks))


@contextmanager
def opened_workers(
    model: Path, folder: Path, limits: Limits, indices: Sequence[int | None], num_threads: int = 0
) -> Iterator[Workers]:
    """Opens a rank on each device, ready for its first step. num_threads: see DeviceId."""
    file, spec = open_model(model)
    plan, ranks = make_plan(spec, [1.0] * len(indices)), list[Worker]()
    pool = ThreadPoolExecutor(len(indices))
    try:
        for share, index in zip(plan, indices, strict=True):
            load = load_message(file, spec, share, len(plan), limits, "shared-memory")
            options = dataclasses.replace(load.options, timeout_seconds=60.0)  # one may compile for long
            load = dataclasses.replace(load, options=options)
            ranks.append(Worker(load, DeviceId(index, num_threads=num_threads), WorkerPlace(str(folder))))
        endpoints, kinds = zip(*((rank.collective.endpoint, rank.device.kind) for rank in ranks), strict=True)

        def make_ready(rank: Worker) -> None:
            rank.connect(Connect(endpoints, kinds, ((),) * len(ranks)))
            rank.load_weights(Deaf())
            rank.prepare()

        list(pool.map(make_ready, ranks))
        yield Workers(ranks, pool)
    finally:
        for rank in ranks:
            rank.close()
        pool.shutdown()


@contextmanager
def opened_worker(
    model: Path, folder: Path, limits: Limits, index: int | None, num_threads: int = 0
) -> Iterator[Worker]:
    """Opens a rank without others on a device, ready for its first step."""
    with opened_workers(model, folder, limits, [index], num_threads) as workers:
        yield workers.ranks[0]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A rank without others on NumPy, ready for its first step."""
    write_llama(tmp_path / "model.gguf")
    with opened_worker(tmp_path / "model.gguf", tmp_path, LIMITS, None) as loaded:
        yield loaded
