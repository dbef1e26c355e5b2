"""A model whose workers run, as its driver and those who give it requests see it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.split.limits import Limits


class Running(Protocol):
    """A session: workers that have loaded a model."""

    @property
    def engine(self) -> Engine:
        """The engine carries out steps."""

    @property
    def requests(self) -> Requests:
        """The requests that are computed; the driver's thread alone touches them."""

    @property
    def limits(self) -> Limits:
        """The limits say how much the workers have room for."""

    @property
    def watch(self) -> Callable[[], None]:
        """Raises WorkerError where a rank has ended."""

    @property
    def explain(self) -> Callable[[Exception], str]:
        """Returns an error of one request as a sentence, with what is known of it."""


# Starts a session; what it is given raises an exception once the session shall end, whatever it waits for.
# A rank that fails ends it with a RunError from its WorkerError. It may be called again then, but behind
# a LastingError.
OpenSession: TypeAlias = Callable[[Callable[[], None]], AbstractContextManager[Running]]
