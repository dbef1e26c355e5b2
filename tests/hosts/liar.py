"""A joining host that has the key, and lies: `python -m tests.hosts.liar HEAD KEY LIE`.

Prints what the head says to it, a line each, and ends with the head or once it is refused.
"""

import select
import socket
import sys
from dataclasses import replace
from pathlib import Path

import tplaunch
from tplaunch.coordinator import messages as workers
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.hosts import messages
from tplaunch.launcher.hosts.addresses import own_address_towards, parse_address
from tplaunch.launcher.hosts.head_link import HeadGone, HeadLink
from tplaunch.launcher.hosts.keys import read_key_file
from tplaunch.launcher.hosts.links import interface_of
from tplaunch.launcher.hosts.members import device_of
from tplaunch.launcher.hosts.messages import End, FoundModel, Join, Refused, WantedModel


def truth(address: str) -> Join:
    """Returns what an honest host with one device would say."""
    return Join(
        version=messages.PROTOCOL_VERSION,
        worker_version=workers.PROTOCOL_VERSION,
        release=tplaunch.__version__,
        name=socket.gethostname(),
        devices=tuple(map(device_of, select_devices("numpy"))),
        total_memory=1 << 33,
        available_memory=1 << 33,
        memory_limit="",
        num_cores=2,
        interface=interface_of(own_address_towards(address)),
        wanted_host=0,
    )


def lie(honest: Join, kind: str) -> Join:
    """Changes what a host says; past the checks that its own side would make."""
    device = honest.devices[0]
    match kind:
        case "version":
            return replace(honest, version=honest.version + 1, release="99.0")
        case "worker-version":
            return replace(honest, worker_version=honest.worker_version + 1, release="99.0")
        case "much-memory":
            object.__setattr__(device, "memory_bytes", 1 << 62)
        case "negative-memory":
            object.__setattr__(device, "available_bytes", -1)
        case "long-name":
            object.__setattr__(device, "name", "x" * 1_000_000)
        case "many-devices":
            object.__setattr__(honest, "devices", honest.devices * 1000)
        case "no-devices":
            object.__setattr__(honest, "devices", ())
    return honest  # "idle": all of it is true, but no rank will ever run


def main(head: str, key: str, kind: str) -> None:
    address = parse_address(head, "the head's address")
    link = HeadLink(address, read_key_file(Path(key)))
    try:
        link.send(lie(truth(address.host), kind))
        while True:
            select.select([link.wake], (), (), 1.0)
            message = link.receive()
            if isinstance(message, WantedModel):
                link.send(FoundModel())
            if isinstance(message, Refused | End):
                print(message, flush=True)
                return
            if message is not None:
                print(type(message).__name__, flush=True)
    except HeadGone as error:
        print(f"HeadGone: {error}", flush=True)
    finally:
        link.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
