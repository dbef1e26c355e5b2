"""Measures for the head what a joined host can tell, in threads of their own: the head may end meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.cores import beside_cards, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.speeds import device_speed
from tplaunch.launcher.fitting.steps import time_steps
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.descriptions import cut
from tplaunch.launcher.hosts.echoes import send_back
from tplaunch.launcher.hosts.measurements import AskEcho, AskSpeed, AskSteps, DeviceSpeed, StepsTimed
from tplaunch.launcher.hosts.messages import FromJoiner
from tplaunch.worker.jobs.messages import StepSeconds

Asked = AskSpeed | AskSteps | AskEcho


@dataclass(frozen=True)
class DeviceConfig:
    """How a device is opened to be measured."""

    rank_options: RankOptions
    verbose: bool


class Teller:
    """Measures what the head asks for, until it is closed."""

    def __init__(
        self,
        head: Address,
        secret: bytes | None,
        choices: Sequence[DeviceChoice],
        verbose: bool,
        send: Callable[[FromJoiner], None],
    ) -> None:
        self._head, self._secret = head, secret
        self._choices, self._verbose, self._send = choices, verbose, send
        self._lock, self._is_closed = threading.Lock(), False

    def tell(self, asked: Asked) -> None:
        """Begins; processes end with this one, whatever becomes of the thread."""
        if isinstance(asked, AskSpeed):
            work: Callable[[], None] = lambda: self._tell(self._speed(asked))  # noqa: E731
        elif isinstance(asked, AskSteps):
            work = lambda: self._tell(self._steps(asked))  # noqa: E731
        else:
            work = lambda: send_back(Address(self._head.host, asked.port), self._secret, asked.token)  # noqa: E731
        threading.Thread(target=work, name="tplaunch measure", daemon=True).start()

    def close(self) -> None:
        """Nothing is sent any more."""
        with self._lock:
            self._is_closed = True

    def _tell(self, answer: FromJoiner) -> None:
        with self._lock:
            if not self._is_closed:
                self._send(answer)

    def _speed(self, asked: AskSpeed) -> DeviceSpeed:
        try:
            config = DeviceConfig(asked.options, self._verbose)
            choice = beside_cards(self._choices, asked.device, usable_cores())
            return DeviceSpeed(asked.device, device_speed(config, choice))
        except (RunError, OSError, IndexError) as error:
            return DeviceSpeed(asked.device, 0.0, cut(str(error)))

    def _steps(self, asked: AskSteps) -> StepsTimed:
        try:
            config = DeviceConfig(asked.jobs[0].load.options, self._verbose)
            choices = [self._choices[device] for device in asked.devices]
            taken = time_steps(config, choices, asked.jobs)
        except (RunError, OSError, IndexError) as error:
            return StepsTimed(asked.number, (), cut(str(error)))
        return StepsTimed(asked.number, tuple(tuple(map(_checked, rank)) for rank in taken))


def _checked(step: StepSeconds) -> StepSeconds:
    return StepSeconds(step.seconds, min(1.0, max(0.0, step.device_part)))
