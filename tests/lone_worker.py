"""A worker that is the only rank of its model, in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import LIMITS, load_message, open_model, write_llama
from tplaunch.coordinator.messages import Connect, Message
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


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A rank without others, ready for its first step."""
    write_llama(tmp_path / "model.gguf")
    file, spec = open_model(tmp_path / "model.gguf")
    load = load_message(file, spec, make_plan(spec, [1.0])[0], 1, LIMITS, "shared-memory")
    loaded = Worker(load, DeviceId(index=None), WorkerPlace(str(tmp_path)))
    loaded.connect(Connect((loaded.collective.endpoint,), ("cpu",), ((),)))
    loaded.load_weights(Deaf())
    loaded.prepare()
    yield loaded
    loaded.close()
