"""`tplaunch join`: this machine's devices take part in a run that another machine leads."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep

from tplaunch.coordinator.options import check_seconds, option
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import HOSTS_GROUP, INSECURE_HELP, KEY_HELP, MAX_MEMORY_HELP, NO_PIN_HELP
from tplaunch.launcher.device_choice import NONE
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import EXIT_FAILURE, UsageError
from tplaunch.launcher.fitting.memory_places import check_caps
from tplaunch.launcher.hosts.addresses import Address, is_loopback, parse_address, resolved
from tplaunch.launcher.hosts.fetching.cache import USUAL_BYTES
from tplaunch.launcher.hosts.finder import FolderFinder
from tplaunch.launcher.hosts.head_link import HeadGone
from tplaunch.launcher.hosts.joiner import Joiner, Membership
from tplaunch.launcher.hosts.keys import key_path
from tplaunch.launcher.hosts.safety import found_secret
from tplaunch.launcher.lines import say
from tplaunch.launcher.sizes import parse_max_memory, parse_model_cache

REJOIN_SECONDS = (
    1.0  # between one head's end and asking for the next: where there is no network it ends at once
)
WAIT_SECONDS = 600.0  # for a head to be there


def _paths(texts: Sequence[str]) -> tuple[Path, ...]:
    if "" in texts:  # Path would take it for the current folder
        raise UsageError("--model or --model-dir is empty; name a file or folder, or leave it out")
    return tuple(map(Path, texts))


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """How this machine takes part in a run. Raises UsageError."""

    head: str
    key: str | None = option("--key", default=None, group=HOSTS_GROUP, metavar="FILE", help=KEY_HELP)
    devices: str = option(
        "--devices",
        default="all",
        group=HOSTS_GROUP,
        metavar="LIST",
        help="devices that take part, as `tplaunch devices` lists them, by index or name, one rank each; all,"
        " for each card once; cpu for the processor, cpus for a rank on each of its memory nodes; numpy for"
        " the reference (default: %(default)s)",
    )
    max_memory: Mapping[int | None, int] = option(  # bytes by device; None: the CPU's
        "--max-memory",
        default={},
        group=HOSTS_GROUP,
        metavar="INDEX=SIZE,...",
        read=parse_max_memory,
        help=MAX_MEMORY_HELP,
    )
    models: tuple[Path, ...] = option(
        "-m --model",
        default=(),
        group=HOSTS_GROUP,
        metavar="FILE",
        is_repeated=True,
        read=_paths,
        help="the head's model on this machine, under whatever name; may stand several times",
    )
    model_folders: tuple[Path, ...] = option(
        "--model-dir",
        default=(),
        group=HOSTS_GROUP,
        metavar="FOLDER",
        is_repeated=True,
        read=_paths,
        help="where to look for the head's model, also in folders below it; may stand several times",
    )
    cache_bytes: int = option(
        "--model-cache",
        default=USUAL_BYTES,
        default_text="200GB",
        group=HOSTS_GROUP,
        metavar="SIZE",
        read=parse_model_cache,
        help="what fetched models may take on the disk; the longest unused go, and those in use stay"
        " (default: %(default)s)",
    )
    rejoin: bool = option(
        "--rejoin",
        default=False,
        group=HOSTS_GROUP,
        help="wait for another head when this one has ended",
    )
    wait_seconds: float = option(
        "--wait",
        default=WAIT_SECONDS,
        group=HOSTS_GROUP,
        number=float,
        metavar="SECONDS",
        help="how long to wait for the head to be there (default: %(default)s)",
    )
    no_pin: bool = option("--no-pin", default=False, group=HOSTS_GROUP, help=NO_PIN_HELP)
    node_rank: int = 0  # the number that this host must get; 0 for any
    insecure: bool = option("--insecure", default=False, group=HOSTS_GROUP, help=INSECURE_HELP)
    verbose: bool = option("-v --verbose", default=False, group="debugging", help="show the workers' logs")

    def __post_init__(self) -> None:
        check_seconds("--wait", self.wait_seconds)
        if self.devices == NONE:
            raise UsageError(f"--devices {NONE}: a host joins to lend devices; that is for the head")
        if self.key is not None:
            key_path(self.key)
        for path in (*self.models, *self.model_folders):
            if not path.exists():
                raise UsageError(f"{path}: no such file or folder")


def join(config: JoinConfig) -> int:
    """Takes part until the head ends. Returns 0, or 1 where that was a failure or the head was lost.

    With config.rejoin it goes on with the next head, and asks again where what keeps it out may pass.
    """
    head = _found_head(config)
    secret = found_secret(config.key, config.insecure, is_loopback(head.host), f"the head at {head}")
    selected = select_devices(config.devices, pins=not config.no_pin)
    choices = _capped(selected, config.max_memory)
    finder = FolderFinder(config.models, config.model_folders)
    is_first, said = True, ""  # what kept it out the last time
    while True:
        wait_seconds = config.wait_seconds if is_first or not config.rejoin else None
        membership = Membership(
            head,
            secret,
            config.node_rank,
            wait_seconds,
            config.verbose,
            config.cache_bytes,
            asks_again=bool(said),
        )
        failure = ""
        try:
            with Joiner(membership, choices, finder) as joiner:
                failure = joiner.serve()
            say(f"the head at {head} has {f'failed: {failure}' if failure else 'ended'}")
            said = ""
        except HeadGone as error:
            failure = f"the head at {head} {error}"
            if not (config.rejoin and error.passes):
                raise RunError(failure) from error
            if failure != said:
                say(f"{failure}; this host goes on asking")
            said = failure
        if not config.rejoin:
            return EXIT_FAILURE if failure else 0
        is_first = False
        sleep(REJOIN_SECONDS)


def _capped(choices: Sequence[DeviceChoice], max_memory: Mapping[int | None, int]) -> list[DeviceChoice]:
    """Returns the devices with what may be taken of them. Raises UsageError for caps of others."""
    check_caps(choices, max_memory)
    of_host = max_memory.get(None, 0)
    return [
        replace(choice, caps=(0 if choice.index is None else max_memory.get(choice.index, 0), of_host))
        for choice in choices
    ]


def _found_head(config: JoinConfig) -> Address:
    """Returns the head's address as a number. Raises UsageError for one that there is not.

    With config.rejoin a network that is not there yet, as when a machine starts, is waited for.
    """
    what = "the head's address"
    address, is_said = parse_address(config.head, what), False
    while True:
        try:
            return resolved(address, what)
        except UsageError as error:
            cause = error.__cause__
            is_for_now = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
            if not (config.rejoin and is_for_now):
                raise
            if not is_said:
                say(f"{error}; it is looked up again and again")
            is_said = True
        sleep(REJOIN_SECONDS)
