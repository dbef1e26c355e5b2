"""Addresses of hosts as people write them, and what this machine's own are."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from tplaunch.launcher.errors import UsageError

DEFAULT_PORT = 5670
ANY = "0.0.0.0"  # all of this machine's addresses
FORM = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^:\[\]/\s]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Address:
    """The place of a TCP socket. host: a name or an address; an IPv6 one without brackets."""

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
    if match is None or not 0 < port < 65536:
        raise UsageError(f"{option} {text:.80}: an address is needed, such as 192.168.1.10:{DEFAULT_PORT}")
    return Address(match["six"] or match["host"], port)


def resolved(address: Address, option: str) -> Address:
    """Returns the address with a number in place of a name. Raises UsageError for one that nobody knows."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option} {address}: there is no such address: {reason}") from error
    return Address(str(found[0][4][0]), address.port)


def bracketed(host: str) -> str:
    """Returns the host as it stands before a colon with a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tells whether a numeric address is this machine's alone."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def is_any(host: str) -> bool:
    """Tells whether a numeric address stands for all of this machine's."""
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def own_address_towards(host: str) -> str:
    """Returns the address of this machine from which packets to another leave. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
        probe.connect((host, 9))
        return str(probe.getsockname()[0])
