"""Measures prefill and decode on a loaded engine. Knows no device, and nothing of how results are shown."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import numpy as np

from tplaunch.coordinator.measuring.ledger import Ledger
from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

NAMES = {"prefill": "pp", "cached": "cp", "decode": "tg"}
WARM_UP_TOKENS = 2  # of decode: the first step of a kind records its program
CUTTING_TOKENS = 10  # of several texts on stages, which try steps of other sizes first (micro_batches.py)


@dataclass(frozen=True)
class Test:
    """`num_tokens` tokens behind a context: of a prompt at once, or one by one; in `batch` texts together.

    cached: a prompt that came before, so that most of it is found in the prefix cache.
    """

    __test__ = False  # pytest: not one of yours

    kind: str  # prefill, cached or decode
    num_tokens: int
    context: int = 0  # positions that are in the KV cache before
    batch: int = 1

    def __post_init__(self) -> None:
        assert self.kind in NAMES, self.kind
        assert self.num_tokens > 0 and self.context >= 0, (self.num_tokens, self.context)

    @property
    def name(self) -> str:
        """As llama-bench has it: pp512 for prompt processing, tg64 for text generation; cp512 for cached."""
        where = f"@{self.context}" if self.context else ""
        together = f"x{self.batch}" if self.batch > 1 else ""
        return NAMES[self.kind] + str(self.num_tokens) + together + where

    @property
    def num_positions(self) -> int:
        return self.context + self.num_tokens + 1


@dataclass(frozen=True)
class Measurement:
    """The seconds of each repetition of a test, and the ledger of its time."""

    test: Test
    seconds: tuple[float, ...]
    ledger: Ledger

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(self.test.batch * self.test.num_tokens / seconds for seconds in self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def measure(engine: Engine, requests: Requests, test: Test, repeat: int) -> Measurement:
    """Runs a test once to warm up and then `repeat` times."""
    least = CUTTING_TOKENS if engine.num_stages > 1 and test.batch > 1 else WARM_UP_TOKENS
    warm_up = min(test.num_tokens, least) if test.kind == "decode" else test.num_tokens
    _run_once(engine, requests, replace(test, num_tokens=warm_up))
    engine.take_ledger()
    seconds = tuple(_run_once(engine, requests, test) for _ in range(repeat))
    return Measurement(test, seconds, engine.take_ledger().ledger(sum(seconds)))


def _run_once(engine: Engine, requests: Requests, test: Test) -> float:
    """Seconds, sampling included.

    The context is not computed: attention reads what the cache holds there, which takes as long as if it were
    the keys and values of a text. Nothing comes from the prefix cache, unless that is what is measured.
    """
    length = test.context + (1 if test.kind == "decode" else test.num_tokens)
    random = np.random.Generator(np.random.PCG64(0))
    num_tokens = test.num_tokens if test.kind == "decode" else 1
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    for _ in range(test.batch):
        tokens = random.integers(0, engine.spec.vocabulary_size, length).tolist()
        requests.add(tokens, params, assumed=test.context, shares=test.kind == "cached")
    started = time.perf_counter()
    while len(requests):
        requests.step()
    return time.perf_counter() - started
