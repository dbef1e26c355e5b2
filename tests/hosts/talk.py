"""Speaks plain TCP between hosts, to measure the tests' network. Run as a script; imports nothing of ours.

python talk.py answer PORT               says when it listens, and then answers one caller
python talk.py ask ADDRESS PORT MEGABYTES    prints seconds of ten round trips, and of sending so much
"""

import socket
import sys
import time

NUM_ROUND_TRIPS = 10
CHUNK = bytes(1 << 20)


def answer(port: int) -> None:
    with socket.create_server(("", port)) as door:
        print("listening", flush=True)
        caller, _ = door.accept()
        with caller:
            for _ in range(NUM_ROUND_TRIPS):
                caller.sendall(caller.recv(1))
            while caller.recv(1 << 20):
                pass


def ask(address: str, port: int, num_megabytes: int) -> None:
    with socket.create_connection((address, port), timeout=30) as answering:
        answering.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(NUM_ROUND_TRIPS):
            start = time.monotonic()
            answering.sendall(b"?")
            answering.recv(1)
            print(time.monotonic() - start)
        start = time.monotonic()
        for _ in range(num_megabytes):
            answering.sendall(CHUNK)
        answering.shutdown(socket.SHUT_WR)
        answering.recv(1)  # the other end closes when it has taken everything
        print(time.monotonic() - start)


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
