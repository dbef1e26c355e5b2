"""Measures sampling: microseconds of a row on a rank, and of a token on the coordinator.

python examples/measure_sampling.py --vocabulary 150000 --rows 1,64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from tplaunch.coordinator import candidates
from tplaunch.coordinator.serving.sampling.batch import Pick, pick_all
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.results import gather, merge
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.split.plan import Span

WAYS = {
    "greedy": SamplingParams(temperature=0, seed=1),
    "defaults": SamplingParams(seed=1),
    "penalties": SamplingParams(repetition_penalty=1.1, seed=1),
    "no top-k": SamplingParams(temperature=1, top_k=0, min_p=0, seed=1),
    "logprobs": SamplingParams(logprobs=5, seed=1),
}
PROMPT = list(range(100, 200))


def microseconds(action: Callable[[], object], seconds: float = 0.3) -> float:
    """Measures a call: the median of many."""
    action()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6


def measure(way: str, vocabulary: int, num_rows: int, num_ranks: int) -> None:
    logits = (np.random.default_rng(1).standard_normal((num_rows, vocabulary)) * 4).astype(np.float32)
    ends = [vocabulary * rank // num_ranks for rank in range(num_ranks + 1)]
    spans = [Span(start, stop) for start, stop in pairwise(ends)]
    slices = [np.ascontiguousarray(logits[:, span.start : span.stop]) for span in spans]
    samplers = [Sampler(WAYS[way], vocabulary, prompt_ids=PROMPT) for _ in range(num_rows)]
    wanted = gather([sampler.wants(PROMPT) for sampler in samplers])
    picks = [Pick(sampler, row, 200, PROMPT) for row, sampler in enumerate(samplers)]

    def rank() -> list[object]:
        return [
            candidates.answer(wanted, slices[0], spans[0]),
            candidates.whole_rows(wanted.whole_rows, slices[0]),
        ]

    answers = [candidates.answer(wanted, mine, span) for mine, span in zip(slices, spans, strict=True)]
    wholes = [candidates.whole_rows(wanted.whole_rows, mine) for mine in slices]

    def coordinate() -> object:
        gather([sampler.wants(PROMPT) for sampler in samplers])
        result = merge(wanted, num_rows, answers, wholes, spans)
        return pick_all(picks, result, lambda rows: logits[list(rows)])

    print(
        f"{way:>10} {num_rows:>4} rows: rank {microseconds(rank) / num_rows:8.1f} us a row,"
        f" coordinator {microseconds(coordinate) / num_rows:8.1f} us a token"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--rows", default="1,64")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    for way in WAYS:
        for rows in map(int, options.rows.split(",")):
            measure(way, options.vocabulary, rows, options.ranks)


if __name__ == "__main__":
    main()
