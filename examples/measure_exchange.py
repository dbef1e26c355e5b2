"""Measures the exchange between two hosts alone, against a plain TCP ping-pong of the same bytes.

On the one:   python examples/measure_exchange.py --listen 10.77.0.1
On the other: python examples/measure_exchange.py --join 10.77.0.1

On one machine both of it, with --both: over loopback, or between the network namespaces that --namespaces
names (`ip netns` made them; as root), each with the address that stands beside it. The run's token goes over
plain TCP: nothing but made-up numbers is protected by it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from tplaunch import collectives
from tplaunch.collectives import Collective

PORT = 5677
TIMEOUT_SECONDS = 60.0
WARM_UP_CALLS = 20
ROUNDS = 3  # of each way by turns; the medians of all calls count
WAYS = [(wire, summed) for wire in collectives.WIRE_TYPES for summed in (False, True)]


def meet(rank: int, address: str) -> socket.socket:
    """The connection between the two. address: where rank 0 listens."""
    if rank == 0:
        with socket.create_server((address, PORT)) as listener:
            listener.settimeout(TIMEOUT_SECONDS)
            connection = listener.accept()[0]
    else:
        connection = connected(address)
    connection.settimeout(TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def connected(address: str) -> socket.socket:
    end = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return socket.create_connection((address, PORT), TIMEOUT_SECONDS)
        except ConnectionRefusedError:  # the other one has not begun yet
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def told(connection: socket.socket, value: str) -> str:
    """Returns the value that the other one tells, to whom this one is told."""
    connection.sendall(json.dumps(value).encode().ljust(256))
    return str(json.loads(received(connection, bytearray(256))))


def received(connection: socket.socket, buffer: bytearray) -> bytearray:
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise SystemExit("the other one has hung up")
        view = view[count:]
    return buffer


def ping_pong(rank: int, connection: socket.socket, size: int) -> Callable[[], None]:
    values, buffer = bytes(size), bytearray(size)

    def call() -> None:
        if rank == 0:
            connection.sendall(values)
        received(connection, buffer)
        if rank == 1:
            connection.sendall(values)

    return call


def exchange(collective: Collective, size: int, summed: bool) -> Callable[[], None]:
    count, ones = size // 4, np.ones(size // 4, np.float32)
    total, numbers = np.zeros_like(ones), sequences(collective)

    def call() -> None:
        sequence, parity = next(numbers)
        collective.own(parity)[:count] = ones
        collective.all_reduce(sequence, parity, count, summed=summed)
        partials = collective.partials(parity)[:, :count]
        if not summed:
            np.add(partials[0], partials[1], out=total)

    return call


def sequences(collective: Collective) -> Iterator[tuple[int, int]]:
    first = collective._sequence + 1  # of those that other sizes have not had yet
    return ((sequence, sequence % 2) for sequence in range(first, 1 << 62))


def timed(call: Callable[[], None], num_calls: int) -> list[float]:
    for _ in range(WARM_UP_CALLS):
        call()
    seconds = []
    for _ in range(num_calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(rank: int, listens: str, own: str, sizes: list[int], num_calls: int) -> None:
    """listens: rank 0's address. own: this rank's."""
    with meet(rank, listens) as connection:
        token = told(connection, secrets.token_hex(collectives.TOKEN_BYTES))
        if rank == 0:
            told(connection, token)
        else:
            token = told(connection, token)
        made = {}
        for wire in collectives.WIRE_TYPES:
            made[wire] = collectives.create(
                "zmq",
                rank=rank,
                num_ranks=2,
                slot_bytes=max(sizes),
                token=bytes.fromhex(token),
                timeout_seconds=TIMEOUT_SECONDS,
                wire=wire,
                address=own,
            )
            endpoint = made[wire].endpoint
            other = told(connection, endpoint)
            made[wire].connect([endpoint, other] if rank == 0 else [other, endpoint])
        for size in sizes:
            report(rank, connection, made, size, max(20, min(num_calls, (1 << 28) // size)))
        for collective in made.values():
            collective.close()


def report(
    rank: int, connection: socket.socket, made: dict[str, Collective], size: int, num_calls: int
) -> None:
    plain: list[float] = []
    seconds: dict[tuple[str, bool], list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        plain += timed(ping_pong(rank, connection, size), num_calls)
        for wire, summed in WAYS:
            seconds[wire, summed] += timed(exchange(made[wire], size, summed), num_calls)
    if rank:
        return
    base = statistics.median(plain)
    print(f"{size} bytes: TCP ping-pong {base * 1e6:.0f} us")
    for (wire, summed), each in seconds.items():
        median, mean = statistics.median(each), statistics.fmean(each)
        way = "around a ring" if summed else "one-shot"
        rate = size / mean / 1e6
        print(
            f"  {wire} {way}: median {median * 1e6:.0f} us, mean {mean * 1e6:.0f} us,"
            f" {median / base:.2f} of the ping-pong, {rate:.0f} MB/s each way"
        )
    sys.stdout.flush()


def start_both(namespaces: list[tuple[str, str]], arguments: list[str]) -> None:
    """Runs both on this machine, each on some of its cores, as the launcher's workers are."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    processes = []
    for rank, (namespace, address) in enumerate(namespaces):
        where = ["--listen", address] if rank == 0 else ["--join", namespaces[0][1], "--own", address]
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        pin = ["taskset", "-c", ",".join(map(str, cores[:half] if rank == 0 else cores[-half:]))]
        command = [*inside, *pin, sys.executable, __file__, *where, *arguments]
        processes.append(subprocess.Popen(command))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--listen", metavar="ADDRESS", help="this host's, for the other one to join")
    parser.add_argument("--join", metavar="ADDRESS", help="of the one that listens")
    parser.add_argument("--own", metavar="ADDRESS", help="of the one that joins")
    parser.add_argument("--both", action="store_true", help="both on this machine")
    parser.add_argument("--namespaces", metavar="A=ADDRESS,B=ADDRESS", default="=127.0.0.1,=127.0.0.1")
    parser.add_argument("--sizes", metavar="BYTES", default="16384,1048576")
    parser.add_argument("--calls", type=int, default=500, metavar="N")
    options = parser.parse_args()
    if options.both:
        names = [
            (name, address) for name, _, address in (x.partition("=") for x in options.namespaces.split(","))
        ]
        return start_both(names, ["--sizes", options.sizes, "--calls", str(options.calls)])
    if not options.listen and not options.join:
        parser.error("one of --listen, --join and --both is needed")
    rank = 0 if options.listen else 1
    own = options.listen or options.own or own_address(options.join)
    sizes = [int(size) for size in options.sizes.split(",")]
    return measure(rank, options.listen or options.join, own, sizes, options.calls)


def own_address(other: str) -> str:
    """The address by which this host reaches the other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, PORT))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    main()
