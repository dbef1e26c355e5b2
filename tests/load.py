"""Many clients at once: some wait for their answers, some leave; each answer is compared with its single run.

python -m tests.load --seconds 120 --clients 64 [--kill-after 40]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.load_cases import TEMPLATE, Answer, Case, make_cases

PATIENCE = 300.0  # seconds for one answer
LEAVINGS = ("half a request", "in the queue", "in prefill", "in decode")
LEAVING_SHARE = 0.3


@dataclass
class Tally:
    """The counts of what clients met with."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # errors that no client caused
    answers: list[tuple[int, Answer]] = field(default_factory=list)  # by the number of the case


async def exchange(url: str, case: Case, *, stream: bool, leaving: str | None, draw: random.Random) -> bytes:
    """Returns the body of an answer; nothing where the client leaves. Raises ValueError for an error."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        body = case.encoded(stream=stream)
        head = f"POST {case.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        request = f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        if leaving == "half a request":
            request = request[: draw.randrange(1, len(request))]
        writer.write(request)
        await writer.drain()
        if leaving is None:
            return _body(await reader.read(-1))
        if leaving == "in prefill":
            await asyncio.sleep(draw.random() / 10)
        elif leaving == "in decode":
            await reader.readuntil(b"\n\n")
            with contextlib.suppress(asyncio.IncompleteReadError):
                for _ in range(draw.randrange(1, 6)):
                    await reader.readuntil(b"\n\n")
        if draw.random() < 0.5:  # a reset instead of a goodbye
            its_socket: socket.socket = writer.get_extra_info("socket")
            its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return b""
    finally:
        writer.close()


def _body(response: bytes) -> bytes:
    """Takes a response apart. Raises ValueError for one that is an error, or not whole."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"{head[:60]!r} {rest[:300]!r}")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body, size = b"", b""
    while size != b"0":
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def one_client(url: str, cases: Sequence[Case], seed: int, until: float, most: int) -> Tally:
    """Asks until that time, at most so often."""
    tally, draw = Tally(), random.Random(seed)
    while time.monotonic() < until and tally.counts["requests"] < most:
        number, stream = draw.randrange(len(cases)), draw.random() < 0.6
        leaving = draw.choice(LEAVINGS) if draw.random() < LEAVING_SHARE else None
        stream = stream or leaving == "in decode"
        tally.counts["requests"] += 1
        tally.counts["answers" if leaving is None else leaving] += 1
        work = exchange(url, cases[number], stream=stream, leaving=leaving, draw=draw)
        try:
            body = await asyncio.wait_for(work, PATIENCE)
            if leaving is None:
                tally.answers.append((number, cases[number].answer(body, stream=stream)))
        except (OSError, asyncio.IncompleteReadError) as error:
            if leaving is None:
                tally.faults.append(f"case {number}: {error!r}")
        except (ValueError, KeyError, asyncio.TimeoutError) as error:
            tally.faults.append(f"case {number}, {leaving or 'stays'}: {error!r}"[:500])
    return tally


async def load(
    url: str,
    cases: Sequence[Case],
    clients: int,
    seconds: float = 1e9,
    most: int = sys.maxsize,
    seed: int = 0,
) -> Tally:
    """Has clients ask at once, each for so many seconds and at most so often. Returns what they met with."""
    until = time.monotonic() + seconds
    seeds = range(seed * clients, (seed + 1) * clients)
    tallies = await asyncio.gather(*(one_client(url, cases, one, until, most) for one in seeds))
    total = Tally()
    for tally in tallies:
        total.counts += tally.counts
        total.faults += tally.faults
        total.answers += tally.answers
    return total


async def compare(url: str, cases: Sequence[Case], tally: Tally) -> list[str]:
    """Asks for each case once more, alone; returns where answers under load were others."""
    alone: dict[int, Answer] = {}
    differences = []
    for number, answer in tally.answers:
        if number not in alone:
            body = await exchange(url, cases[number], stream=False, leaving=None, draw=random.Random())
            alone[number] = cases[number].answer(body, stream=False)
        if answer != alone[number]:
            differences.append(f"case {number} {cases[number]}\n  {answer}\n  alone {alone[number]}")
    return differences


def resident(pids: Sequence[int]) -> list[float]:
    """Returns the resident memory of processes, in MiB."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            line = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            found.append(round(int(line[1]) / 1024, 1) if line else 0.0)
    return found


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


@contextlib.contextmanager
def server(devices: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Starts `tplaunch serve` with the demo model and the template of the cases."""
    template = f"tokenizer.chat_template=str:{TEMPLATE}"
    command = [
        sys.executable,
        "-m",
        "tplaunch",
        "serve",
        "--demo",
        "--devices",
        devices,
        "--port",
        "0",
    ]
    command += ["--override-kv", template, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while "listening on" not in (line := process.stderr.readline()):
                assert line, "the server has ended"
                print(line, end="", file=sys.stderr)
            yield line.split()[-1], process
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stderr.read(), end="", file=sys.stderr)


async def watch(pid: int, seconds: float, kill_after: float | None) -> list[str]:
    """Writes down memory as time passes; kills a rank once."""
    notes, began = [], time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        notes.append(f"{passed:.0f} s: RSS {resident([pid, *children(pid)])} MiB")
        if kill_after is not None and passed >= kill_after:
            ranks = [one for one in children(pid) if b"worker" in Path(f"/proc/{one}/cmdline").read_bytes()]
            os.kill(ranks[-1], signal.SIGKILL)
            notes.append(f"{passed:.0f} s: killed rank {len(ranks) - 1}")
            kill_after = None
        await asyncio.sleep(min(10, seconds))
    return notes


async def measure(options: argparse.Namespace, url: str, pid: int) -> bool:
    """Prints what was found. Returns whether all was well."""
    cases = make_cases(options.seed, options.cases, options.longest, options.most_tokens)
    work = load(url, cases, options.clients, options.seconds, seed=options.seed)
    tally, notes = await asyncio.gather(work, watch(pid, options.seconds, options.kill_after))
    notes.append(f"end: RSS {resident([pid, *children(pid)])} MiB")
    differences = await compare(url, cases, tally)
    print(*notes, sep="\n")
    print(json.dumps(tally.counts), f"faults {len(tally.faults)}, differences {len(differences)}")
    print(*tally.faults[:10], *differences[:5], sep="\n")
    return not (tally.faults or differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--longest", type=int, default=150, help="words of a prompt")
    parser.add_argument("--most-tokens", type=int, default=60, help="tokens of an answer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", default="numpy,numpy")
    parser.add_argument("--kill-after", type=float, metavar="SECONDS", help="kill a rank then")
    options = parser.parse_args()
    with server(options.devices, "--restart-workers") as (url, process):
        well = asyncio.run(measure(options, url, process.pid))
    sys.exit(not well)


if __name__ == "__main__":
    main()
