"""Addresses of hosts as people write them, and what this machine's own are."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.launcher.errors import UsageError

DEFAULT_PORT = 5670
ANY = "0.0.0.0"  # all of this machine's addresses
SIX = r"\[(?P<six>[0-9a-fA-F:.]+(?:%[\w.@-]+)?)\]"
FORM = re.compile(rf"(?:{SIX}|(?P<host>[^:\[\]/\s]+))(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True)
class Address:
    """The place of a TCP socket.

    host: a name or an address; an IPv6 one without brackets, a link-local one with its zone, as fe80::1%eth0.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"tcp://{self}"


def parse_address(text: str, option: str) -> Address:
    """Returns HOST[:PORT], of an IPv6 address [HOST]:PORT. Raises UsageError."""
    match = FORM.fullmatch(text)
    port = DEFAULT_PORT if match is None or match["port"] is None else int(match["port"])
    if match is None and _is_six(text):
        raise UsageError(f"{option} {text:.80}: an IPv6 address stands in brackets, as '[{text}]'")
    if match is None:
        raise UsageError(f"{option} {text:.80}: an address is needed, such as 192.168.1.10:{DEFAULT_PORT}")
    if not 0 < port < 65536:
        raise UsageError(f"{option} {text:.80}: ports go from 1 to 65535")
    return Address(match["six"] or match["host"], port)


def _is_six(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def resolved(address: Address, option: str) -> Address:
    """Returns the address with a number in place of a name. Raises UsageError for one that nobody knows."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option} {address}: the address is not found: {reason}") from error
    return Address(_with_zone(found[0][4]), address.port)


def _with_zone(place: Sequence[object]) -> str:
    """Returns the address of a socket's place, a link-local one with the name of its interface."""
    host, zone = str(place[0]), place[3] if len(place) > 3 else 0
    if not isinstance(zone, int) or not zone:
        return host
    return f"{without_zone(host)}%{socket.if_indextoname(zone)}"


def without_zone(host: str) -> str:
    """Returns an address without its zone, which is a name of one machine's own."""
    return host.partition("%")[0]


def is_link_local(host: str) -> bool:
    """Tells whether a numeric address means something only together with an interface."""
    return ":" in host and ipaddress.ip_address(without_zone(host)).is_link_local


def bracketed(host: str) -> str:
    """Returns the host as it stands before a colon with a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tells whether a numeric address is this machine's alone."""
    return ipaddress.ip_address(without_zone(host)).is_loopback


def is_any(host: str) -> bool:
    """Tells whether a numeric address stands for all of this machine's."""
    return ipaddress.ip_address(without_zone(host)).is_unspecified


def is_own(host: str) -> bool:
    """Tells whether sockets of this machine can listen at a numeric address."""
    family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        try:
            probe.bind(place)
        except OSError:
            return False
    return True


def own_address_towards(host: str) -> str:
    """Returns the address of this machine from which packets to another leave. Raises OSError."""
    family, kind, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:  # connecting it sends nothing
        probe.connect(place)
        return _with_zone(probe.getsockname())
