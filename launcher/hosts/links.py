"""This machine's network interfaces: their speeds, and what is wrong with using one for a run."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tplaunch.launcher.hosts.addresses import is_link_local, is_loopback
from tplaunch.launcher.hosts.link_modes import fastest_mode

NETWORK = Path("/sys/class/net")


@dataclass(frozen=True)
class Interface:
    """A network interface with one of its addresses. Speeds are in Mbit/s; 0 where they are not known."""

    name: str
    address: str
    speed: int = 0
    most_speed: int = 0  # that it could have
    is_wireless: bool = False
    is_half_duplex: bool = False

    def __post_init__(self) -> None:
        if len(self.name) > 64 or len(self.address) > 64 or self.speed < 0 or self.most_speed < 0:
            raise ValueError(f"an interface {self.name!r:.80} with the address {self.address!r:.80}")
        ipaddress.ip_address(self.address)  # a name would be looked up where the other host asks for that

    @property
    def text(self) -> str:
        """The interface with its speed, for people."""
        return f"{self.name} ({self.address}{f', {speed_text(self.speed)}' if self.speed else ''})"

    def warning(self) -> str | None:
        """Says what makes it a bad way to another host; None where nothing does."""
        if is_loopback(self.address):
            return f"{self.name} is this machine's loopback: no other machine is reached by it"
        if self.is_wireless:
            return f"{self.name} is Wi-Fi, whose delay costs most of what further devices gain; use a cable"
        if self.is_half_duplex:
            return f"{self.name} sends and receives in turn (half duplex); see its cable and switch"
        if 0 < self.speed <= self.most_speed // 2:
            return (
                f"{self.name} runs at {speed_text(self.speed)}, but could at {speed_text(self.most_speed)};"
                " see its cable and switch"
            )
        return None


def speed_text(megabits: int) -> str:
    """A speed for people, such as 2.5 Gbit/s."""
    return f"{megabits / 1000:g} Gbit/s" if megabits >= 1000 else f"{megabits} Mbit/s"


def interfaces() -> list[Interface]:
    """Returns the interfaces that are up, once for each of their addresses, the fastest first.

    Link-local ones are left out: people would have to add which interface of their own they mean.
    """
    return [one for one in _all_interfaces() if not is_link_local(one.address)]


def _all_interfaces() -> list[Interface]:
    stats = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        if name not in stats or not stats[name].isup:
            continue
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                found.append(_interface(name, one.address, stats[name]))
    return sorted(found, key=_rank)


def _interface(name: str, address: str, stats: object) -> Interface:
    return Interface(
        name,
        address,
        speed=max(0, getattr(stats, "speed", 0)),
        most_speed=fastest_mode(name),
        is_wireless=(NETWORK / name / "wireless").exists() or (NETWORK / name / "phy80211").exists(),
        is_half_duplex=getattr(stats, "duplex", None) == psutil.NIC_DUPLEX_HALF,
    )


def _rank(interface: Interface) -> tuple[bool, bool, bool, int]:
    """Orders interfaces by how likely it is that other hosts are reached by them."""
    loops, is_six = is_loopback(interface.address), ":" in interface.address
    return loops, interface.is_wireless, is_six, -interface.speed


def interface_of(address: str, known: Sequence[Interface] | None = None) -> Interface:
    """Returns the interface that has an address; one without a name's details where none is found."""
    found = _all_interfaces() if known is None else known
    fallback = Interface("lo" if is_loopback(address) else "an interface", address)
    return next((one for one in found if one.address == address), fallback)
