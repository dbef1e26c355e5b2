"""Finds where the head listens, and by which of its addresses the hosts that joined reach it."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.addresses import (
    ANY,
    Address,
    is_any,
    is_link_local,
    is_loopback,
    is_own,
    own_address_towards,
    parse_address,
    resolved,
)
from tplaunch.launcher.hosts.links import interfaces
from tplaunch.launcher.hosts.members import Member
from tplaunch.launcher.hosts.safety import found_secret
from tplaunch.launcher.lines import say


def way_in(config: RunConfig) -> tuple[Address, bytes | None]:
    """Returns where this host listens, and the secret by which others are known. Raises UsageError."""
    text = config.listen
    if text is None:
        secret = found_secret(config.key, config.insecure, True, "the network")
        text = "127.0.0.1" if secret is None and not config.insecure else ANY
        return parse_address(text, "--listen"), secret
    listen = resolved(parse_address(text, "--listen"), "--listen")
    if not is_own(listen.host):
        own = ", ".join(one.address for one in interfaces())
        raise UsageError(f"--listen {listen}: this machine has no such address; it has {own}")
    return listen, found_secret(config.key, config.insecure, is_loopback(listen.host), f"--listen {listen}")


def own_address(listen: Address, members: Sequence[Member]) -> str:
    """Returns this host's address, as the others reach it. Raises RunError where one can't be reached."""
    if not is_any(listen.host):
        return listen.host
    found = dict.fromkeys(map(_own_address_towards, members))
    if len(found) > 1:
        say(
            f"the hosts reach this one by several addresses ({', '.join(found)}), of which one can be used;"
            " --listen names it"
        )
    return next((address for address in found if not is_loopback(address)), next(iter(found)))


def _own_address_towards(member: Member) -> str:
    address = member.join.interface.address
    try:
        return own_address_towards(address)
    except OSError as error:
        advice = "hosts of a run need addresses that all of them reach, not behind a router that changes them"
        if is_link_local(address):
            advice = "--listen with this host's own such address, as [fe80::1%eth0], says by which interface"
        raise RunError(
            f"{member.title} can't be reached at its own address {address} from here: {error.strerror};"
            f" {advice}"
        ) from error
