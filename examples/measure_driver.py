"""Measures the driver's own Python: microseconds a token on a fake channel, whose time does not count.

python examples/measure_driver.py --requests 10000 --batch 64
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan

PROMPT_LENGTH, NUM_TOKENS, MEBIBYTE = 16, 32, 1 << 20


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
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
