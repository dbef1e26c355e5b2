"""A model, loaded on its devices and ready for steps: ties supervisor, channel and engine together."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.architectures import model_spec
from coordinator.control import WorkerChannel, WorkerError
from coordinator.engine import Engine, EngineConfig
from coordinator.garbage import collected_by_hand
from coordinator.gguf_file import read_gguf
from coordinator.messages import Attached, Ready
from coordinator.model import ModelSpec, Origin, TensorInfo
from coordinator.plan import Limits, RankShare, make_plan
from coordinator.scheduler import Scheduler
from coordinator.shapes import SHAPES, shape_tensors
from coordinator.shards import check_tensors
from launcher.config import DEFAULT_CONTEXT, RandomModel, RunConfig, UsageError
from launcher.devices import DeviceChoice
from launcher.fit import check_fit
from launcher.progress import show_progress
from launcher.supervisor import Supervisor

MAX_SOCKET_PATH = 100  # bytes; the kernel's limit for a Unix socket is 107
BLOCK_LENGTH = 32


@dataclass(frozen=True)
class Model:
    """A checked model, with the limits that the user's wishes give it."""

    origin: Origin
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    spec: ModelSpec
    limits: Limits


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    engine: Engine
    scheduler: Scheduler
    model: Model
    plan: tuple[RankShare, ...]
    attached: list[Attached]
    ready: list[Ready]


class RunError(RuntimeError):
    """A worker failed; names the rank and its log. Exit code 1."""


def open_model(config: RunConfig) -> Model:
    """Reads and checks the file, or looks up the shape. Raises GgufError, ModelError or UsageError."""
    if isinstance(config.model, RandomModel):
        shape = SHAPES[config.model.shape]
        tensors = shape_tensors(shape, config.model.weight_type)
        return Model(Origin(), {}, tensors, shape.spec, _limits(config, shape.spec))
    file = read_gguf(config.model)
    spec = model_spec(file.metadata, file.tensors)
    check_tensors(spec, file.tensors)
    return Model(file.origin, file.metadata, file.tensors, spec, _limits(config, spec))


def _limits(config: RunConfig, spec: ModelSpec) -> Limits:
    context = config.context_length or min(spec.context_length, DEFAULT_CONTEXT)
    return Limits(
        context_length=context,
        num_blocks=-(-context // BLOCK_LENGTH),
        block_length=BLOCK_LENGTH,
        max_rows=config.max_rows,
        max_logit_rows=min(32, config.max_rows),
        kv_type=config.kv_type,
        activations=config.activations,
    )


def plan_ranks(config: RunConfig, model: Model, num_ranks: int) -> tuple[RankShare, ...]:
    """Raises UsageError or PlanError for a split that can't be."""
    return make_plan(model.spec, config.rank_weights(num_ranks), config.expert_split)


@contextmanager
def start_session(config: RunConfig, model: Model, choices: list[DeviceChoice]) -> Iterator[Session]:
    """Starts the workers and loads the model. At the end no process, socket or shared memory is left."""
    plan = plan_ranks(config, model, len(choices))
    check_fit(model.spec, model.tensors, plan, model.limits, choices)
    if any(choice.index is None for choice in choices):
        print("tplaunch: running on the CPU with NumPy, without a Vulkan device", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="tplaunch-", dir=_socket_root()) as directory:  # mode 0700
        endpoint = f"ipc://{directory}/control"
        supervisor = Supervisor(config, choices, endpoint)
        channel = WorkerChannel(endpoint, len(choices), supervisor.watch)
        engine_config = EngineConfig(
            config.collective,
            model.limits,
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
                with collected_by_hand():
                    yield Session(engine, Scheduler(model.limits), model, plan, attached, ready)
                engine.shut_down()
        except WorkerError as error:
            raise RunError(f"{error}; its log: {supervisor.log_path(error.rank)}") from error
        finally:
            channel.close()


def _socket_root() -> str | None:
    """None for the usual temporary directory, /tmp where its path is too long for a socket's name."""
    longest = Path(tempfile.gettempdir()) / "tplaunch-12345678" / "control"
    return "/tmp" if len(str(longest).encode()) > MAX_SOCKET_PATH else None


def check_prompt(tokens: list[int], model: Model) -> None:
    """Raises UsageError for a prompt that can't be run."""
    if not tokens:
        raise UsageError("the prompt is empty: it has no tokens")
    wrong = next((token for token in tokens if not 0 <= token < model.spec.vocabulary_size), None)
    if wrong is not None:
        raise UsageError(f"token id {wrong} is outside the vocabulary of {model.spec.vocabulary_size}")
    if len(tokens) > model.limits.context_length:
        raise UsageError(
            f"the prompt has {len(tokens)} tokens, but the context only {model.limits.context_length};"
            f" shorten it, or give a larger --context (the model was trained for {model.spec.context_length})"
        )
