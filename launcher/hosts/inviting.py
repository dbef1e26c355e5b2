"""Tells the person at the head which hosts are waited for, and by which command they join."""

from __future__ import annotations

import shlex
import sys

from tplaunch.launcher.config import NUMBERED, PLACED, RunConfig
from tplaunch.launcher.hosts.addresses import Address, is_any, is_link_local, is_loopback
from tplaunch.launcher.hosts.links import interfaces
from tplaunch.launcher.lines import numbered, say


def say_how_to_join(config: RunConfig, listen: Address, secret: bytes | None) -> None:
    """Prints the command for the other hosts, as their shells take it, where that is not known there."""
    if config.others_come == PLACED:
        return
    if config.others_come == NUMBERED:
        ranks = f"{numbered('node rank', range(1, config.hosts))} of {config.hosts}"
        say(f"waiting for {ranks} at port {listen.port}: the same command must run there, too")
        return
    if is_any(listen.host):
        known = [one.address for one in interfaces() if not is_loopback(one.address)]
        addresses = [Address(host, listen.port) for host in known if ":" not in host] or [listen]
    else:
        addresses = [listen]
    way = " --insecure" if config.insecure else ""
    if secret is not None and config.key is not None:  # else it lies at the usual place there, too
        way = f" --key {shlex.quote(config.key)}"
    count = config.hosts - 1
    say(f"waiting for {count} more host{'s' * (count > 1)}; on each of them run:")
    print(f"    tplaunch join {shlex.quote(str(addresses[0]))}{way}", file=sys.stderr, flush=True)
    if config.listen is None and is_loopback(listen.host):
        say("without a key no other machine can join: `tplaunch keygen` makes one, to be copied to each host")
    if is_link_local(addresses[0].host):
        say("there, % stands before the name of that host's own interface to this one")
    if len(addresses) > 1:
        say(f"or, where they reach this one otherwise, with {', '.join(map(str, addresses[1:]))}")
