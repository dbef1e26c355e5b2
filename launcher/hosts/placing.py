"""Says by options or a cluster's environment that this process is a joining host, or the head of others."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.options import declared_options, option
from tplaunch.launcher.commands.join import WAIT_SECONDS, JoinConfig
from tplaunch.launcher.config import HOSTS_GROUP, NUMBERED, HubModel
from tplaunch.launcher.declared import add_declared, declared_values
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import ANY, Address, parse_address
from tplaunch.launcher.hosts.environment import HostPlace, find_place
from tplaunch.launcher.hub.fetch import cache_of
from tplaunch.launcher.sizes import parse_max_memory

COMMANDS = ("run", "serve", "bench", "batch", "eval", "perplexity", "logits")  # that several hosts carry out
DOWNLOAD_SECONDS = 24 * 3600.0  # that a head may take to download a model
PLACED = (*COMMANDS, "plan")  # that may find their hosts by PlaceOptions


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """One command on every host, each of which knows which it is."""

    num_hosts: int | None = option(
        "--nnodes",
        default=None,
        group=HOSTS_GROUP,
        number=int,
        metavar="N",
        help="the same command runs on so many hosts, which know each other by --node-rank and --head, or by"
        " the variables of srun, torchrun and mpirun; 1 for this host alone, whatever these say",
    )
    number: int | None = option(
        "--node-rank",
        default=None,
        group=HOSTS_GROUP,
        number=int,
        metavar="K",
        help="which of the --nnodes this is; 0 is the head, and the others join it",
    )
    head: str | None = option(
        "--head", default=None, group=HOSTS_GROUP, metavar="ADDRESS[:PORT]", help="where the head is"
    )


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of PlaceOptions, beside those of hosts that the parser has."""
    group = next((one for one in parser._action_groups if one.title == HOSTS_GROUP), parser)
    add_declared(group, PlaceOptions, declared_options(PlaceOptions))


def take_place(options: argparse.Namespace, environment: Mapping[str, str]) -> JoinConfig | None:
    """Returns how this process joins a run; None where it is the head or alone, as the options then say.

    Raises UsageError for what contradicts itself.
    """
    wanted = PlaceOptions(**declared_values(PlaceOptions, options))
    given = next((flag for flag, value in vars(wanted).items() if value is not None), None)
    if getattr(options, "link", None) or getattr(options, "host_devices", None):
        if given is not None:
            raise UsageError(
                "--link and --host-devices describe hosts that need not be there, and --nnodes starts one"
                " command on each; use one"
            )
        return None
    if options.hosts > 1:
        if given is not None:
            raise UsageError(
                "--hosts waits for others to join, and --nnodes starts one command on each host; use one"
            )
        return None
    head = None if wanted.head is None else parse_address(wanted.head, "--head")
    place = find_place(environment, wanted.num_hosts, wanted.number, None if head is None else head.host)
    if place is None:
        return None
    if head is not None:
        place = HostPlace(place.num_hosts, place.number, head.host, head.port, place.source)
    if not place.is_head:
        return _joins(options, place)
    options.hosts, options.others_come = place.num_hosts, NUMBERED
    if options.listen is None:
        port = place.port or parse_address("any", "--listen").port
        options.listen = str(Address(ANY, port))
    return None


def _joins(options: argparse.Namespace, place: HostPlace) -> JoinConfig:
    assert place.head is not None, "an address, which find_place has seen to"
    model = getattr(options, "model", None)
    # Nothing is downloaded: what is not in the cache comes from the head, and of that only this host's part.
    folder = cache_of(model) if isinstance(model, HubModel) else None
    files = (model,) if isinstance(model, Path) and model.exists() else ()
    address = parse_address(place.head, "--head") if place.port is None else Address(place.head, place.port)
    return JoinConfig(
        head=str(address),
        key=options.key,
        insecure=options.insecure,
        devices=options.devices,
        models=files,
        model_folders=() if folder is None else (folder,),
        max_memory=parse_max_memory(options.max_memory) if options.max_memory else {},
        no_pin=options.no_pin,
        node_rank=place.number,
        # A head that downloads the model listens afterwards.
        wait_seconds=DOWNLOAD_SECONDS if isinstance(model, HubModel) else WAIT_SECONDS,
        verbose=options.verbose,
    )
