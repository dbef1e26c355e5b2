"""A model, loaded on its devices and ready for steps: ties supervisor, channel and engine together."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tplaunch.coordinator.control import WorkerChannel, WorkerError
from tplaunch.coordinator.engine import Engine, EngineConfig
from tplaunch.coordinator.garbage import collected_by_hand
from tplaunch.coordinator.messages import Attached, Ready
from tplaunch.coordinator.scheduler import Scheduler
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.config import RunConfig, RunError
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.folders import private_folder
from tplaunch.launcher.model import Model
from tplaunch.launcher.progress import show_progress
from tplaunch.launcher.supervisor import Supervisor

MAX_SOCKET_PATH = 100  # bytes; the kernel's limit for a Unix socket is 107


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    engine: Engine
    scheduler: Scheduler
    model: Model
    plan: tuple[RankShare, ...]
    limits: Limits
    attached: list[Attached]
    ready: list[Ready]
    watch: Callable[[], None]  # raises WorkerError where a rank has ended


@contextmanager
def start_session(config: RunConfig, model: Model, arrangement: Arrangement) -> Iterator[Session]:
    """Starts the workers and loads the model. At the end no process, socket or shared memory is left."""
    choices, plan, limits = arrangement.choices, arrangement.plan, arrangement.limits
    if any(choice.index is None for choice in choices):
        print("tplaunch: running on the CPU with NumPy, without a Vulkan device", file=sys.stderr)
    with private_folder(_socket_root()) as directory:
        endpoint = f"ipc://{directory}/control"
        supervisor = Supervisor(config, choices, endpoint)
        channel = WorkerChannel(endpoint, len(choices), supervisor)
        engine_config = EngineConfig(
            config.collective,
            limits,
            config.timeout_seconds,
            config.load_timeout_seconds,
            all_reduce=config.all_reduce,
            measure_anew=config.measure_anew,
            trace=config.trace,
            measure_copy=config.measure_copy,
        )
        engine = Engine(channel, model.origin, model.tensors.values(), model.spec, plan, engine_config)
        try:
            with supervisor, show_progress(len(choices)) as on_progress:
                attached, ready = engine.load(on_progress)
                with collected_by_hand():
                    watch = partial(supervisor.watch, ())
                    yield Session(engine, Scheduler(limits), model, plan, limits, attached, ready, watch)
                engine.shut_down()
        except WorkerError as error:
            raise RunError(f"{error}; its log: {supervisor.log_path(error.rank)}") from error
        finally:
            channel.close()


def _socket_root() -> str | None:
    """None for the usual temporary directory, /tmp where its path is too long for a socket's name."""
    longest = Path(tempfile.gettempdir()) / "tplaunch-12345678" / "control"
    return "/tmp" if len(str(longest).encode()) > MAX_SOCKET_PATH else None
