"""Measures the driver's own Python: microseconds a token on a fake channel, whose time does not count.

python examples/measure_driver.py --requests 10000 --batch 64

With --cancels another thread gives the requests to a driver and cancels some of them everywhere: in the
queue, between chunks of prefill and in decode. It ends with 1 where the memory has grown by more than 5 %.
"""

from __future__ import annotations

import argparse
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil

from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.driver import Driver, Job, Listener
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.request import Event
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan

PROMPT_LENGTH, NUM_TOKENS, MEBIBYTE = 16, 32, 1 << 20
MOST_GROWTH = 1.05  # of the memory, after the first fifth of the requests


def engine_of(batch: int, num_ranks: int) -> tuple[Engine, FakeChannel]:
    limits = Limits(context_length=256, num_blocks=8 * batch, max_logit_rows=batch, max_sequences=batch)
    spec, channel = SHAPES["tiny"].spec, FakeChannel(num_ranks)
    config = EngineConfig(RankOptions(), limits, load_timeout_seconds=60)
    engine = Engine(channel, Origin(), (), spec, make_plan(spec, [1.0] * num_ranks), config)
    engine.load(lambda rank, progress: None)
    return engine, channel


def run(engine: Engine, num_requests: int, batch: int, params: SamplingParams) -> int:
    """Keeps `batch` requests running; returns the number of tokens."""
    requests, random = Requests(engine), np.random.default_rng(1)
    num_tokens = 0
    while num_requests or len(requests):
        while num_requests and len(requests) < batch:
            prompt = random.integers(0, engine.spec.vocabulary_size, PROMPT_LENGTH).tolist()
            requests.add(prompt, params)
            num_requests -= 1
        num_tokens += sum(event.token is not None for event in requests.step())
    return num_tokens


def resident() -> int:
    """The most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // MEBIBYTE


@dataclass(frozen=True)
class FakeSession:
    """A session for a driver."""

    engine: Engine
    requests: Requests
    limits: Limits
    watch: Callable[[], None]
    explain: Callable[[Exception], str]


def fake_driver(batch: int, num_ranks: int) -> Driver:
    @contextmanager
    def open_session(check_open: Callable[[], None]) -> Iterator[FakeSession]:
        engine, _ = engine_of(batch, num_ranks)
        yield FakeSession(engine, Requests(engine), engine.limits, check_open, str)

    return Driver(open_session)


class Load(Listener):
    """Keeps twice as many requests open as have a seat, and cancels some."""

    def __init__(self, driver: Driver, batch: int) -> None:
        self.num_finished = self.num_cancelled = self.num_failed = 0
        self._driver, self._room, self._most_open = driver, threading.Semaphore(2 * batch), 2 * batch
        self._random = np.random.default_rng(1)
        self._cancelled_after: dict[Job, int] = {}  # events, of those that are open; -1 for none

    def give(self, num_requests: int) -> None:
        """Returns once so many more have ended."""
        random, size = self._random, self._driver.session.engine.spec.vocabulary_size
        for _ in range(num_requests):
            self._room.acquire()
            prompt = random.integers(0, size, int(random.integers(1, 200))).tolist()
            params = SamplingParams(seed=1, max_tokens=NUM_TOKENS, n=int(random.integers(1, 3)))
            job = Job(prompt, params, self)
            after = self._cancelled_after[job] = int(random.integers(0, 8)) if random.random() < 0.4 else -1
            self._driver.submit([job])
            if after == 0:
                self._cancel(job)
        for _ in range(self._most_open):
            self._room.acquire()
        self._room.release(self._most_open)

    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        for job, event in events:
            after = self._cancelled_after.get(job)
            if after is None:
                continue
            if event.request.is_finished:
                self.num_finished += 1
                self._end(job)
            elif after == 1:
                self._cancel(job)
            else:
                self._cancelled_after[job] = after - 1

    def fail(self, job: Job, error: Exception) -> None:
        self.num_failed += 1
        self._end(job)

    def _cancel(self, job: Job) -> None:
        self.num_cancelled += 1
        self._driver.cancel([job])
        self._end(job)

    def _end(self, job: Job) -> None:
        if self._cancelled_after.pop(job, None) is not None:
            self._room.release()


def load_with_cancels(num_requests: int, batch: int, num_ranks: int) -> bool:
    """Returns whether the memory stayed flat."""
    driver = fake_driver(batch, num_ranks)
    load, process = Load(driver, batch), psutil.Process()
    load.give(num_requests // 5)
    before = process.memory_info().rss
    load.give(num_requests - num_requests // 5)
    after = process.memory_info().rss
    driver.close()
    print(
        f"{load.num_finished} requests finished, {load.num_cancelled} cancelled, {load.num_failed} failed;"
        f" memory {before / MEBIBYTE:.1f} MiB, then {after / MEBIBYTE:.1f} MiB"
    )
    return after <= MOST_GROWTH * before and not load.num_failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cancels", action="store_true")
    options = parser.parse_args()
    if options.cancels:
        sys.exit(not load_with_cancels(options.requests, options.batch, options.ranks))
    ways = {"greedy": SamplingParams(temperature=0, max_tokens=NUM_TOKENS)}
    ways["sampled"] = SamplingParams(seed=1, max_tokens=NUM_TOKENS)
    for name, params in ways.items():
        engine, channel = engine_of(options.batch, options.ranks)
        run(engine, 2 * options.batch, options.batch, params)
        before, channel.seconds, started = resident(), 0.0, time.thread_time()
        num_tokens = run(engine, options.requests, options.batch, params)
        seconds = time.thread_time() - started - channel.seconds
        print(
            f"{name}: {seconds / num_tokens * 1e6:.1f} us a token, {num_tokens} tokens of {options.requests}"
            f" requests, {options.batch} at once; memory {before} MiB, then {resident()} MiB"
        )


if __name__ == "__main__":
    main()
