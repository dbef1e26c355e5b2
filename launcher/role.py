"""Tells which part this machine has in a run: to lead it, or to join another machine that does."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tplaunch.launcher.commands.join import JoinConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import DEFAULT_PORT, Address, parse_address
from tplaunch.launcher.hosts.environment import HostPlace, find_place

ALL_ADDRESSES = "0.0.0.0"


def take_role(options: argparse.Namespace, environment: Mapping[str, str]) -> JoinConfig | None:
    """Returns how this machine joins the head; None where it is the head, or the only one.

    options: of a command that loads a model; --hosts and --listen are set to what a head needs, where an
    environment says so. Raises UsageError.
    """
    if options.node_rank is None and options.head is None and options.hosts is not None:
        return None  # `--hosts 2` on the head, `tplaunch join` elsewhere: whatever the environment says
    address = None if options.head is None else parse_address(options.head, "--head")
    head = None if address is None else address.host
    place = find_place(environment, options.hosts, options.node_rank, head)
    if place is None:
        return None
    port = (place.port or DEFAULT_PORT) if address is None else address.port
    if place.is_head:
        options.hosts = place.num_hosts
        if options.listen is None and port != DEFAULT_PORT:
            options.listen = str(Address(ALL_ADDRESSES, port))
        return None
    return _joining(options, place, port)


def _joining(options: argparse.Namespace, place: HostPlace, port: int) -> JoinConfig:
    if options.listen is not None:
        raise UsageError(f"--listen is for the head, and this is machine {place.number} of {place.num_hosts}")
    assert place.head is not None, "find_place refuses a joiner without a head"
    # All machines get the same command; on this one the model may be at the same path, or not at all.
    model = options.model
    return JoinConfig(
        head=str(Address(place.head, port)),
        key=options.key,
        devices=options.devices,
        models=(model,) if isinstance(model, Path) and model.exists() else (),
        node_rank=place.number,
        insecure=options.insecure,
        verbose=options.verbose,
    )
