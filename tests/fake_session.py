"""A session whose ranks are a FakeModel, with the demo model's tokenizer, and the Python API on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tplaunch
from tests.fake_engine import fake_engine
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.running import OpenSession
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.text.tokenizer import load_tokenizer
from tplaunch.launcher.keywords import config_of
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.session import Session
from tplaunch.opening import tokenizer_of

DEMO = Path(tplaunch.__file__).parent / "demo-stories.gguf"
LIMITS = Limits(
    context_length=64, num_blocks=128, block_length=4, max_rows=64, max_logit_rows=16, max_sequences=8
)


@functools.cache
def demo_model() -> Model:
    return open_model(config_of(DEMO, {}))


class FakeRun:
    """A run that was not started yet. `channel` is its channel, once it has a session.

    It may be opened again. deaths: after so many messages the ranks of each session fail, as many as there
    are. metadata: of another vocabulary than the demo model's.
    """

    def __init__(
        self,
        limits: Limits = LIMITS,
        deaths: Iterable[int] = (),
        metadata: dict[str, Any] | None = None,
        num_stages: int = 1,
    ) -> None:
        self._num_stages = num_stages
        self.limits, self._deaths, self._metadata = limits, iter(deaths), metadata
        self.on_open: Callable[[Callable[[], None]], None] = lambda check_open: None  # called before it opens
        self.on_load: Callable[[FakeChannel], None] = lambda channel: None  # called when it is loaded
        self.channel: FakeChannel | None = None
        self.session: Session | None = None
        self.on_look: Callable[[], None] = lambda: None  # called when the driver looks after the ranks
        self.on_end: Callable[[], None] = lambda: None  # called when a rank has failed, before it is told
        self.has_ended = False

    @property
    def open(self) -> OpenSession:
        return self._open

    @contextmanager
    def _open(self, check_open: Callable[[], None]) -> Iterator[Session]:
        self.on_open(check_open)
        model = demo_model()
        tokenizer = load_tokenizer(self._metadata or model.metadata)
        size = tokenizer.vocabulary_size if self._metadata else model.spec.vocabulary_size
        engine, self.channel = fake_engine(self.limits, LayerKinds(), 2, size, self._num_stages)
        self.channel.fails_after = next(self._deaths, None)
        self.on_load(self.channel)
        requests = Requests(engine, tokenizer)

        def watch() -> None:
            check_open()
            self.on_look()

        plan = tuple(engine.plan)
        self.session = Session(engine, requests, True, model, plan, self.limits, [], [], watch, str)
        try:
            yield self.session
        except WorkerError as error:
            self.on_end()
            raise RunError(f"{error}; its log: nowhere") from error
        finally:
            self.has_ended = True


def fake_opened(run: FakeRun, metadata: dict[str, Any] | None = None, seed: int | None = None) -> Opened:
    """Returns the parts of an LLM or AsyncLLM. metadata: in place of the demo model's."""
    metadata = demo_model().metadata if metadata is None else metadata
    return Opened(Driver(run.open), metadata, tokenizer_of(metadata), seed)
