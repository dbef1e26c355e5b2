"""`tplaunch join`: lends this machine's devices to a head on another one, for as long as that runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import tplaunch
from tplaunch.coordinator import messages as workers
from tplaunch.coordinator.gguf.paths import Stamp
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import signal_name
from tplaunch.launcher.headroom import check_headroom
from tplaunch.launcher.hosts.addresses import Address, bracketed, own_address_towards, without_zone
from tplaunch.launcher.hosts.copies import AskCopy, Fetched, Fetching, FetchPart, seen
from tplaunch.launcher.hosts.descriptions import cut
from tplaunch.launcher.hosts.fetching.cache import USUAL_BYTES, model_in_use
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.job import FetchJob
from tplaunch.launcher.hosts.fetching.obtain import models_cache
from tplaunch.launcher.hosts.fetching.store import StoreError
from tplaunch.launcher.hosts.finder import ModelError, ModelFinder
from tplaunch.launcher.hosts.head_link import SILENCE_SECONDS, HeadGone, HeadLink
from tplaunch.launcher.hosts.links import interface_of
from tplaunch.launcher.hosts.measurements import AskEcho, AskSpeed, AskSteps
from tplaunch.launcher.hosts.members import device_of
from tplaunch.launcher.hosts.messages import (
    PROTOCOL_VERSION,
    End,
    FoundModel,
    FromHead,
    Join,
    Leave,
    RankEnded,
    RanksStarted,
    RanksStopped,
    Refused,
    StartRanks,
    StopRanks,
    WantedModel,
    Welcome,
)
from tplaunch.launcher.hosts.telling import Teller
from tplaunch.launcher.lines import say
from tplaunch.launcher.machine import host_memory
from tplaunch.launcher.signals import Signalled
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.launcher.supervisor import Supervisor
from tplaunch.running_clock import RunningClock
from tplaunch.worker.faults import fault_sentence
from tplaunch.worker.place import WorkerPlace
from tplaunch.worker.process import wait_readable

LOOK_SECONDS = 0.5  # between two looks at the workers while nothing comes
FETCH_SECONDS = 60.0  # without a byte of the model, while the head beats
SAY_SECONDS = 2.0  # without a head, until that is said


@dataclass(frozen=True)
class Membership:
    """How this machine takes part. secret: of the key file; None where anybody may be the head."""

    head: Address
    secret: bytes | None
    wanted_host: int
    wait_seconds: float | None  # for a head to be there; None for as long as it takes
    verbose: bool
    cache_bytes: int = USUAL_BYTES  # of fetched models, as far as nobody uses them
    asks_again: bool = False  # the last head put it off, which was said


class Joiner:
    """This host's part in one head's run. Use it as a context: its workers are gone when it ends."""

    def __init__(self, membership: Membership, choices: Sequence[DeviceChoice], finder: ModelFinder) -> None:
        self._membership, self._choices, self._finder = membership, tuple(choices), finder
        self._files: tuple[str, ...] = ()
        self._stamps: tuple[Stamp, ...] = ()  # of those that were found here
        self._wanted: WantedModel | None = None  # to be fetched
        self._job: FetchJob | None = None  # the fetch that goes on, or comes next
        self._model = ExitStack()  # the fetched one, in use
        self._told = (0, 0)  # how far it was when the head was told last
        self._silence_seconds = SILENCE_SECONDS
        self._run = 0
        self._supervisor: Supervisor | None = None
        self._reported: set[int] = set()  # ranks of the present run that have ended
        self._resources = ExitStack()  # of the present run
        self._is_member = False

    def __enter__(self) -> Joiner:
        head, secret = self._membership.head, self._membership.secret
        self._link = HeadLink(head, secret)
        self._teller = Teller(head, secret, self._choices, self._membership.verbose, self._link.send)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._teller.close()
        if self._job is not None:
            self._job.close()
        try:
            if isinstance(error, Signalled):
                self._link.send(Leave(f"it was ended there by {signal_name(error.number)}"))
            elif error is not None and not isinstance(error, HeadGone):
                self._link.send(Leave(cut(f"it failed: {fault_sentence(error) or error}")))
        finally:
            try:
                # As on the head's own host, a person who ends it needs no logs.
                self._stop(at_once=True, keeps_logs=kind is not None and not isinstance(error, Signalled))
            finally:
                self._model.close()
                self._link.close()

    def serve(self) -> str:
        """Does what the head asks for until that ends; returns its failure, or nothing.

        Raises HeadGone where it is lost or does not want this host, and RunError where this host can't do it.
        """
        self._await_head()
        while True:
            message = self._next()
            if isinstance(message, End):
                return message.failure
            self._do(message)

    def _await_head(self) -> None:
        """Asks to take part, and waits until there is somebody to hear it."""
        try:
            own = own_address_towards(self._membership.head.host)
        except OSError as error:
            raise HeadGone(f"can't be reached from here: {error.strerror}") from error
        self._address, interface = own, interface_of(own)
        warning = interface.warning()
        if not self._membership.asks_again:
            say(f"joining {self._membership.head} by {interface.text}{f'; {warning}' if warning else ''}")
        memory = host_memory(len(self._choices))
        self._link.send(
            Join(
                version=PROTOCOL_VERSION,
                worker_version=workers.PROTOCOL_VERSION,
                release=tplaunch.__version__,
                name=socket.gethostname()[:64],
                devices=tuple(map(device_of, self._choices)),
                total_memory=memory.total,
                available_memory=memory.available,
                memory_limit=memory.limited_by,
                num_cores=len(os.sched_getaffinity(0)),
                interface=replace(interface, address=without_zone(own)),
                wanted_host=self._membership.wanted_host,
                max_memory=self._choices[0].caps[1],
            )
        )
        clock = RunningClock(most_seconds=2 * LOOK_SECONDS)
        wait_seconds, is_said = self._membership.wait_seconds, False
        while not self._link.is_through:
            waited = clock()
            if wait_seconds is not None and waited > wait_seconds:
                raise HeadGone(f"did not answer within {wait_seconds:g} s; --wait allows more")
            if waited > SAY_SECONDS and not is_said:
                is_said = True
                say(f"no head answers at {self._membership.head} yet; waiting for it")
            self._wait()
            self._link.check()

    def _wait(self) -> None:
        """Waits until there is a message, or a worker has ended; for a moment, at most."""
        ends = () if self._supervisor is None else self._supervisor.descriptors()
        if self._reported:  # their descriptors stay readable for ever
            ends = ()
        wait_readable([self._link.wake, *ends], LOOK_SECONDS)

    def _next(self) -> FromHead:
        """Waits for the head's next message, and tells it meanwhile of ranks that have ended."""
        while (message := self._link.receive()) is None:
            self._wait()
            self._look_after_workers()
            self._look_after_fetch()
        return message

    def _look_after_workers(self) -> None:
        while self._supervisor is not None:
            try:
                self._supervisor.watch(self._reported)
            except WorkerError as error:
                self._reported.add(error.rank)
                self._link.send(RankEnded(self._run, error.rank, cut(str(error))))
            else:
                return

    def _do(self, message: FromHead) -> None:
        if isinstance(message, Refused):
            raise HeadGone(f"does not take this host: {message.reason}", passes=message.passes)
        if isinstance(message, WantedModel):
            self._silence_seconds = message.silence_seconds
            self._link.send(self._find(message))
        elif isinstance(message, FetchPart) and self._is_member and self._job is not None:
            assert self._wanted is not None
            if self._job.is_started:  # the head has given up what it wished before
                self._job.close()
                self._job = self._new_job(self._wanted)
            self._job.wish(message.blocks)
            if message.is_last:
                self._job.start()
        elif isinstance(message, (AskSpeed, AskSteps, AskEcho)) and self._is_member:
            self._teller.tell(message)
        elif isinstance(message, AskCopy) and self._is_member:
            self._link.send(seen(message.number, self._stamps))
        elif isinstance(message, Welcome):
            self._is_member = True
            say(f"this is host {message.host} of {message.num_hosts}, counted from 0; waiting for work")
        elif isinstance(message, StartRanks) and self._is_member:
            self._start(message)
        elif isinstance(message, StopRanks) and message.run == self._run:
            self._stop(at_once=message.at_once, keeps_logs=message.keeps_logs)
            self._link.send(RanksStopped(message.run))

    def _find(self, wanted: WantedModel) -> FoundModel:
        try:
            self._stamps = self._finder.find(wanted) if wanted.parts else ()
            self._files = tuple(stamp.path for stamp in self._stamps)
        except ModelError as error:
            self._stamps = ()
            if not wanted.port:
                return FoundModel(cut(str(error)))
            self._wanted = wanted
            with suppress(OSError, StoreError):  # the fetch will tell
                self._model.close()  # that of an earlier wish
                self._model.enter_context(model_in_use(models_cache() / wanted.model_hash))
            self._job = self._new_job(wanted)
            say(f"{wanted.name} is not here; what the cache lacks of it is fetched from the head")
            return FoundModel(fetches=True)
        return FoundModel()

    def _new_job(self, wanted: WantedModel) -> FetchJob:
        head, facts = self._membership.head, ModelFacts(wanted.model_hash, wanted.parts)
        server, most = Address(head.host, wanted.port), self._membership.cache_bytes
        return FetchJob(facts, server, self._membership.secret, FETCH_SECONDS, most)

    def _look_after_fetch(self) -> None:
        """Tells the head how far the fetch is. Another may follow, for other ranks."""
        job = self._job
        if job is None or self._wanted is None:
            return
        if job.progress != self._told:
            self._told = job.progress
            self._link.send(Fetching(*job.progress))
        if job.is_done:
            job.close()
            self._files, self._job, self._told = job.files, self._new_job(self._wanted), (0, 0)
            self._link.send(Fetched(cut(job.fault)))

    def _start(self, start: StartRanks) -> None:
        self._stop(at_once=True, keeps_logs=False)
        if any(device >= len(self._choices) for device in start.devices):
            raise RunError(
                f"the head asks for the devices {start.devices}, but there are {len(self._choices)}"
            )
        check_headroom(len(start.ranks))
        self._run, self._reported = start.run, set()
        place = WorkerPlace(
            str(self._resources.enter_context(socket_folder())),
            bracketed(self._address),
            start.secret,
            self._silence_seconds,
            self._files,
        )
        supervisor = Supervisor(
            self._membership,
            [self._choices[device] for device in start.devices],
            f"tcp://{bracketed(self._membership.head.host)}:{start.port}",
            lambda: None,
            ranks=start.ranks,
            place=place,
            silence_seconds=self._silence_seconds,
        )
        self._supervisor = supervisor.__enter__()
        self._link.send(RanksStarted(start.run, cut(str(supervisor.logs))))
        say(f"running rank{'s' * (len(start.ranks) > 1)} {', '.join(map(str, start.ranks))}")

    def _stop(self, *, at_once: bool, keeps_logs: bool) -> None:
        supervisor, self._supervisor = self._supervisor, None
        try:
            if supervisor is not None:
                supervisor.end(at_once=at_once, keep_logs=keeps_logs)
        finally:
            self._resources.close()
