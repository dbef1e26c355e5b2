"""An Ethernet switch that is slow on purpose: it holds frames back for a while, and now and then all of them.

Linux has this as netem, which many kernels lack. Frames go from socket to socket as they come, so whatever
the hosts speak gets through, at any port. Run as a script in the switch's namespace; imports nothing of ours.

    python relay.py DELAY EVERY LASTS PORT...

holds frames for DELAY seconds, and lets none pass for LASTS seconds every EVERY seconds (EVERY 0: never).
Prints a line when it forwards, and ends with its standard input.
"""

import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress

ALL_PROTOCOLS = 3  # linux/if_ether.h, ETH_P_ALL
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 64 << 20  # frames that have come and wait for their turn
# The kernel's account of how far it has taken a frame apart (struct virtio_net_hdr), before each frame: with
# it a frame may hold 64 KiB, and its checksum may be left to the last moment, as it is for network cards.
OFFLOAD_BYTES = 10
MAX_FRAME_BYTES = OFFLOAD_BYTES + 14 + 4 + (64 << 10)
FRAMES_AT_ONCE = 32  # of one port, before the others and the clock are looked at
ADDRESS_BYTES = 6


class Switch:
    """Learns which address is behind which port, and keeps all frames in the order in which they came."""

    def __init__(self, ports: list[str], delay: float, every: float, lasts: float) -> None:
        self.ports = [open_port(name) for name in ports]
        self.delay, self.every, self.lasts = delay, every, lasts
        self.start = time.monotonic()
        self.behind: dict[bytes, socket.socket] = {}
        self.held: deque[tuple[float, socket.socket, bytes]] = deque()  # due time, where it came from, frame

    def run(self) -> None:
        while True:
            wait = max(0.0, self.held[0][0] - time.monotonic()) if self.held else None
            ready, _, _ = select.select([sys.stdin, *self.ports], [], [], wait)
            if sys.stdin in ready:
                return
            for port in self.ports:
                if port in ready:
                    self.take_in(port)
            now = time.monotonic()
            while self.held and self.held[0][0] <= now:
                _, origin, frame = self.held.popleft()
                self.pass_on(origin, frame)

    def take_in(self, port: socket.socket) -> None:
        due = self.due(time.monotonic())
        with suppress(
            BlockingIOError, OSError
        ):  # OSError: the port is down, or has been; the next frame tells
            for _ in range(FRAMES_AT_ONCE):
                self.held.append((due, port, port.recv(MAX_FRAME_BYTES)))

    def due(self, now: float) -> float:
        """Returns when a frame that comes now leaves."""
        due = now + self.delay
        into = (due - self.start) % self.every if self.every else self.lasts
        return due - into + self.lasts if into < self.lasts and due - self.start > self.every else due

    def pass_on(self, origin: socket.socket, frame: bytes) -> None:
        target = frame[OFFLOAD_BYTES : OFFLOAD_BYTES + ADDRESS_BYTES]
        self.behind[frame[OFFLOAD_BYTES + ADDRESS_BYTES : OFFLOAD_BYTES + 2 * ADDRESS_BYTES]] = origin
        known = self.behind.get(target)
        for port in self.ports if known is None else [known]:
            if port is not origin:
                with suppress(OSError):  # down, or its queue is full: lost, as a switch would lose it
                    port.send(frame)


def open_port(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.bind((name, ALL_PROTOCOLS))
    port.setblocking(False)
    return port


if __name__ == "__main__":
    switch = Switch(sys.argv[4:], *map(float, sys.argv[1:4]))
    print("forwarding", flush=True)
    switch.run()
