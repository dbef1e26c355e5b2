"""A model, loaded on its devices and ready for steps: ties supervisor, channel and engine together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tplaunch.coordinator.direct_line import LinePairs
from tplaunch.coordinator.garbage import collected_by_hand
from tplaunch.coordinator.messages import Attached, Ready
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import Watcher, WorkerChannel
from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.failures import LastingError, RunError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.restarts import RestartPolicy
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.coordinator.text.tokenizer import Tokenizer
from tplaunch.launcher.blame import crashed_kernel, suspects
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.arrange import Arrangement
from tplaunch.launcher.headroom import check_headroom
from tplaunch.launcher.hosts.addresses import bracketed
from tplaunch.launcher.hosts.copies import ADVICE
from tplaunch.launcher.hosts.opening import Hosts
from tplaunch.launcher.hosts.remote_ranks import RemoteRanks
from tplaunch.launcher.lines import say
from tplaunch.launcher.model import Model
from tplaunch.launcher.progress import show_progress
from tplaunch.launcher.rounding import chosen_activations, rounding_sentence
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.launcher.supervisor import Supervisor
from tplaunch.worker.faults import fault_sentence
from tplaunch.worker.place import WorkerPlace


@dataclass(frozen=True)
class Session:
    """A loaded model, as a command works with it."""

    engine: Engine
    requests: Requests
    has_text: bool  # tokens are shown as text
    model: Model
    plan: tuple[RankShare, ...]
    limits: Limits
    attached: list[Attached]
    ready: list[Ready]
    watch: Callable[[], None]  # raises WorkerError where a rank has ended
    explain: Callable[[Exception], str]  # an error of one request as a sentence, with what is known of it

    @property
    def activations(self) -> str:
        """Names the type by which rows of prompts are multiplied."""
        return chosen_activations(self.limits, self.ready)


def _stays_open() -> None:
    """The session ends with the block that it is opened for, and not before."""


@contextmanager
def start_session(
    config: RunConfig,
    model: Model,
    arrangement: Arrangement,
    tokenizer: Tokenizer | None = None,
    *,
    hosts: Hosts | None = None,
    owns_process: bool = True,
    check_open: Callable[[], None] = _stays_open,
) -> Iterator[Session]:
    """Starts the workers and loads the model. At the end no process, socket or shared memory is left.

    tokenizer: without one there are tokens and no text. hosts: of the arrangement, None for this one alone.
    owns_process: Python's garbage collector may be kept out of steps, as no other program needs it.
    check_open: is called often, also while something is waited for; what it raises ends the session.
    """
    plan, limits = arrangement.plan, arrangement.limits
    hosts = hosts or Hosts(arrangement.choices)
    choices = _present(hosts, model, arrangement, check_open)
    num_own = sum(choice.host == HEAD for choice in choices)
    with socket_folder() as folder, LinePairs(range(num_own)) as lines:
        ranks = _ranks(config, choices, hosts.ranks(choices), folder, lines, check_open)
        engine = Engine(
            ranks.channel,
            model.origin,
            model.tensors.values(),
            model.spec,
            plan,
            EngineConfig(config.rank_options, limits, config.load_timeout_seconds),
            arrangement.placement,
        )
        with (
            closing(ranks.channel),
            _told(model, plan, choices, engine, ranks),
            ranks.own,
            ranks.others.started(ranks.channel.port),
            show_progress([rank.weights for rank in arrangement.bytes]) as on_progress,
        ):
            attached, ready = engine.load(on_progress)
            for note in dict.fromkeys(note for message in ready for note in message.notes):
                say(note)
            if rounding := rounding_sentence(limits, ready, bool(model.spec.experts)):
                say(rounding)
            requests = _requests(engine, model, tokenizer)
            watch = partial(ranks.watcher.watch, ())
            explain = partial(_explained, model, ranks.others, plan, choices)
            has_text = tokenizer is not None
            with collected_by_hand() if owns_process else nullcontext():
                yield Session(
                    engine, requests, has_text, model, plan, limits, attached, ready, watch, explain
                )
            engine.shut_down()
    if change := model.overwriting() or ranks.others.copy_change(only_overwriting=True):
        say(f"{change}: what was computed with it may be wrong")


def _present(
    hosts: Hosts, model: Model, arrangement: Arrangement, check_open: Callable[[], None]
) -> list[DeviceChoice]:
    """Returns the device of each rank, once all hosts are there and have what they need of the model."""
    choices = hosts.present(arrangement.choices, check_open)
    hosts.bring(choices, arrangement.plan, model, check_open)
    if in_numpy := [rank for rank, choice in enumerate(choices) if choice.in_numpy]:
        is_all = len(in_numpy) == len(choices)
        ranks = f"rank{'s' * (len(in_numpy) > 1)} {', '.join(map(str, in_numpy))}"
        say(f"{'running' if is_all else ranks} on the CPU with NumPy, without a Vulkan device")
    check_headroom(len(choices))
    return choices


@dataclass(frozen=True)
class _Ranks:
    """The processes of a run, here and on other hosts, what watches all of them, and the way to them."""

    own: Supervisor
    others: RemoteRanks
    watcher: Watcher
    channel: WorkerChannel


def _ranks(
    config: RunConfig,
    choices: Sequence[DeviceChoice],
    others: RemoteRanks,
    folder: Path,
    lines: LinePairs,
    check_open: Callable[[], None],
) -> _Ranks:
    """None of them is started. folder: for the socket by which this host's are reached, as by the lines."""
    endpoint = f"ipc://{folder}/control"
    own = Supervisor(
        config,
        [choice for choice in choices if choice.host == HEAD],
        endpoint,
        check_open,
        place=WorkerPlace(str(folder), bracketed(others.address)) if others.address else None,
        silence_seconds=others.silence_seconds,
        lines=lines.far,
    )
    watcher = others.watched_with(own)
    channel = WorkerChannel(endpoint, len(choices), watcher, others.door, lines.near)
    return _Ranks(own, others, watcher, channel)


def _requests(engine: Engine, model: Model, tokenizer: Tokenizer | None) -> Requests:
    """Nobody samples what only pads the model's vocabulary, or what the tokenizer suppresses."""
    suppressed = {*model.padding, *(tokenizer.suppressed_token_ids if tokenizer else ())}
    return Requests(engine, tokenizer, suppressed)


@contextmanager
def _told(
    model: Model,
    plan: Sequence[RankShare],
    choices: Sequence[DeviceChoice],
    engine: Engine,
    ranks: _Ranks,
) -> Iterator[None]:
    """Has failures of ranks and of their numbers end as RunError, a sentence with what is known of them."""
    try:
        yield
    except WorkerError as error:
        change, elsewhere = _because(model, ranks.others), ranks.others.log(error.rank)
        log = ranks.own.log_path(error.rank)
        crash = "" if elsewhere else crashed_kernel(log)
        where = _where(choices, error.rank, engine)
        kind = LastingError if change or error.lasts else RunError
        raise kind(f"{where}{error}{crash}{change}; its log: {elsewhere or log}") from error
    except LogitsError as error:
        raise RunError(_explained(model, ranks.others, plan, choices, error)) from error


def start_driver(
    config: RunConfig,
    model: Model,
    arrangement: Arrangement,
    tokenizer: Tokenizer | None,
    *,
    hosts: Hosts | None = None,
    owns_process: bool = False,
    at_end: Callable[[BaseException], None] = lambda error: None,
) -> Driver:
    """Loads a model in a thread of its own. Raises RunError where that fails.

    at_end: the Driver's. The rest is start_session's.

    With config.restart_workers it is loaded again where ranks fail later, unless its files have changed on
    any host.
    """
    failure: str | None = None  # the last one

    @contextmanager
    def open_session(check: Callable[[], None]) -> Iterator[Session]:
        nonlocal failure
        try:
            if failure is not None:
                if change := _because(model, RemoteRanks()):
                    raise LastingError(f"the ranks can't be started again{change}")
                say(f"{failure}; the ranks are started again")
            with start_session(
                config,
                model,
                arrangement,
                tokenizer,
                hosts=hosts,
                check_open=check,
                owns_process=owns_process,
            ) as session:
                yield session
        except Exception as error:
            sentence = fault_sentence(error)
            if sentence is None or isinstance(error, RunError):
                failure = str(error)
                raise
            raise RunError(sentence) from error

    return Driver(open_session, RestartPolicy() if config.restart_workers else None, at_end)


def _where(choices: Sequence[DeviceChoice], rank: int, engine: Engine) -> str:
    """The host and the stage of a failure, to begin a sentence; nothing for a run on one host."""
    if len({choice.host for choice in choices}) == 1:
        return ""
    choice = choices[rank]
    return f"host {choice.host} ({choice.host_name}), {engine.activity}: "


def _explained(
    model: Model,
    others: RemoteRanks,
    plan: Sequence[RankShare],
    choices: Sequence[DeviceChoice],
    error: Exception,
) -> str:
    which = ""
    if isinstance(error, LogitsError) and error.tokens:
        which = f" {suspects(error.tokens, plan, choices)}"
    return f"{error}{which}{_because(model, others)}"


def _because(model: Model, others: RemoteRanks) -> str:
    """Says what has become of the model's files, here or elsewhere, to end a sentence; else nothing."""
    if (change := model.change()) is not None:
        return f": {change}; run it again when the file is whole"
    elsewhere = others.copy_change()
    return "" if elsewhere is None else f": {elsewhere}; {ADVICE}"
