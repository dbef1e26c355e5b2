"""A worker that is the only rank of its model, in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.models import LIMITS, load_message, open_model, write_llama
from tplaunch.coordinator.messages import Connect, Message
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import DeviceId
from tplaunch.worker.loop import Worker
from tplaunch.worker.place import WorkerPlace


class Deaf(ControlSocket):
    """A socket that no one reads."""

    def __init__(self) -> None:
        pass

    def send(self, message: Message) -> None:
        pass


@contextmanager
def opened_worker(model: Path, folder: Path, limits: Limits, index: int | None) -> Iterator[Worker]:
    """Opens a rank without others on a device, ready for its first step."""
    file, spec = open_model(model)
    load = load_message(file, spec, make_plan(spec, [1.0])[0], 1, limits, "shared-memory")
    loaded = Worker(load, DeviceId(index), WorkerPlace(str(folder)))
    try:
        loaded.connect(Connect((loaded.collective.endpoint,), ("cpu",), ((),)))
        loaded.load_weights(Deaf())
        loaded.prepare()
        yield loaded
    finally:
        loaded.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A rank without others on NumPy, ready for its first step."""
    write_llama(tmp_path / "model.gguf")
    with opened_worker(tmp_path / "model.gguf", tmp_path, LIMITS, None) as loaded:
        yield loaded
