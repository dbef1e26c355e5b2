"""A model, loaded on its devices and ready for steps: ties supervisor, channel and engine together."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.control import WorkerChannel, WorkerError
from tplaunch.coordinator.engine import Engine, EngineConfig
from tplaunch.coordinator.garbage import collected_by_hand
from tplaunch.coordinator.messages import Attached, Ready
from tplaunch.coordinator.sampler import LogitsError
from tplaunch.coordinator.scheduler import Scheduler
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.blame import crashed_kernel, suspects
from tplaunch.launcher.config import RunConfig, RunError
from tplaunch.launcher.fitting.arrange import Arrangement
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


@contextmanager
def start_session(config: RunConfig, model: Model, arrangement: Arrangement) -> Iterator[Session]:
    """Starts the workers and loads the model. At the end no process, socket or shared memory is left."""
    choices, plan, limits = arrangement.choices, arrangement.plan, arrangement.limits
    if any(choice.index is None for choice in choices):
        print("tplaunch: running on the CPU with NumPy, without a Vulkan device", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="tplaunch-", dir=_socket_root()) as directory:  # mode 0700
        endpoint = f"ipc://{directory}/control"
        supervisor = Supervisor(config, choices, endpoint)
        channel = WorkerChannel(endpoint, len(choices), supervisor.watch)
        engine_config = EngineConfig(
            config.collective,
            limits,
            config.timeout_seconds,
            all_reduce=config.all_reduce,
            measure_anew=config.measure_anew,
            trace=config.trace,
            measure_copy=config.measure_copy,
        )
        engine = Engine(channel, model.origin, model.tensors.values(), model.spec, plan, engine_config)
        try:
            with supervisor, show_progress(len(choices)) as on_progress:
                attached, ready = engine.load(on_progress)
                for note in dict.fromkeys(note for message in ready for note in message.notes):
                    print(f"tplaunch: {note}", file=sys.stderr)
                with collected_by_hand():
                    yield Session(engine, Scheduler(limits), model, plan, limits, attached, ready)
                engine.shut_down()
        except WorkerError as error:
            log = supervisor.log_path(error.rank)
            raise RunError(f"{error}{crashed_kernel(log)}; its log: {log}") from error
        except LogitsError as error:
            if not error.tokens:
                raise
            raise LogitsError(f"{error} {suspects(error.tokens, plan, choices)}", error.tokens) from error
        finally:
            channel.close()


def _socket_root() -> str | None:
    """None for the usual temporary directory, /tmp where its path is too long for a socket's name."""
    longest = Path(tempfile.gettempdir()) / "tplaunch-12345678" / "control"
    return "/tmp" if len(str(longest).encode()) > MAX_SOCKET_PATH else None
