"""Measures masks: milliseconds of a token under a JSON schema of many fields, and of its sampling.

They are of computing time; whatever else the machine does does not count.

python examples/measure_masks.py --vocabulary 150000 --fields 50
python examples/measure_masks.py --model model.gguf
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.candidates import answer, whole_rows
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.spec import json_schema
from tplaunch.coordinator.serving.sampling.batch import Pick, pick_all
from tplaunch.coordinator.serving.sampling.constraint import TokenMask
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.serving.sampling.results import gather, merge
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.split.plan import Span
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer

FIELDS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer"},
    {"enum": ["red", "green", "blue"]},
    {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    {"type": "string", "maxLength": 20},
]
DEMO = Path(__file__).with_name("demo-stories.gguf")


def schema(num_fields: int) -> dict[str, Any]:
    """An object of fields of all sorts, each of which must be there."""
    fields = {f"field_{number}": FIELDS[number % len(FIELDS)] for number in range(num_fields)}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def larger(metadata: dict[str, Any], size: int) -> dict[str, Any]:
    """The demo model's vocabulary with made-up words of letters behind it, up to this size."""
    numbers = random.Random(1)
    tokens = list(metadata["tokenizer.ggml.tokens"])
    known = set(tokens)
    while len(tokens) < size:
        word = "".join(numbers.choices("\u2581etaoinshrdlu", k=numbers.randint(2, 9)))
        if word not in known:
            known.add(word)
            tokens.append(word)
    num_new = len(tokens) - len(metadata["tokenizer.ggml.tokens"])
    return {
        **metadata,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], *[1] * num_new],
        "tokenizer.ggml.scores": [*metadata["tokenizer.ggml.scores"], *[-1e6] * num_new],
    }


class Timed:
    """A mask that notes the seconds of each answer."""

    def __init__(self, mask: TokenMask, seconds: list[float]) -> None:
        self._mask, self._seconds = mask, seconds

    def allowed(self, generated: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        begin = time.thread_time()
        table = self._mask.allowed(generated)
        self._seconds.append(time.thread_time() - begin)
        return table


def sampled(sampler: Sampler, generated: list[int], row: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The next token, and the seconds that the coordinator takes for it."""
    begin = time.thread_time()
    wanted = gather([sampler.wants(generated)])
    seconds = time.thread_time() - begin
    spans = [Span(0, row.size)]
    told = merge(wanted, 1, [answer(wanted, row, spans[0])], [whole_rows(wanted.whole_rows, row)], spans)
    begin = time.thread_time()
    (picked,) = pick_all([Pick(sampler, 0, len(generated), generated)], told, lambda rows: row[list(rows)])
    if isinstance(picked, LogitsError):
        raise picked
    return picked.token, seconds + time.thread_time() - begin


def measure(tokenizer: Tokenizer, num_fields: int, num_tokens: int) -> tuple[list[float], list[float], int]:
    """Seconds of each mask, and of each mask with its sampling; and the number of texts that ended."""
    size, ends = tokenizer.vocabulary_size, tokenizer.eos_token_ids
    compiler = GrammarCompiler(tokenizer)
    begin = time.perf_counter()
    grammar = compiler.compile(json_schema(schema(num_fields)))
    print(f"compiled in {(time.perf_counter() - begin) * 1000:.0f} ms, with the first use of the library")
    row = (np.random.default_rng(1).standard_normal((1, size)) * 4).astype(np.float32)
    masks: list[float] = []
    tokens: list[float] = []
    num_ended = 0
    for seed in itertools.count():
        if len(tokens) >= num_tokens:
            break
        timed = Timed(grammar.start(size, ends), masks)
        sampler = Sampler(SamplingParams(seed=seed, temperature=5), size, end_ids=ends, mask=timed)
        generated: list[int] = []
        while len(generated) < 2000 and not ends.intersection(generated[-1:]):
            row = np.roll(row, 7, axis=1)  # other tokens are likely each time
            token, seconds = sampled(sampler, generated, row)
            generated.append(token)
            tokens.append(seconds)
        num_ended += bool(ends.intersection(generated[-1:]))
    compiler.close()
    return masks, tokens, num_ended


def show(name: str, seconds: list[float]) -> None:
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    print(f"{name}: p50 {p50:.3f} ms, p99 {p99:.3f} ms, most {max(seconds) * 1000:.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="whose vocabulary is taken, in place of a made-up one")
    parser.add_argument("--vocabulary", type=int, default=150_000, help="size of the made-up vocabulary")
    parser.add_argument("--fields", type=int, default=50, help="of the schema")
    parser.add_argument("--tokens", type=int, default=5000, help="at least so many are measured")
    arguments = parser.parse_args()
    metadata = read_gguf(arguments.model or DEMO).metadata
    if arguments.model is None:
        metadata = larger(metadata, arguments.vocabulary)
    tokenizer = load_tokenizer(metadata)
    print(f"{tokenizer.vocabulary_size} tokens, {arguments.fields} fields")
    masks, tokens, num_ended = measure(tokenizer, arguments.fields, arguments.tokens)
    show("mask", masks)
    show("mask and sampling", tokens)
    print(f"{len(tokens)} tokens, {num_ended} texts came to their end")


if __name__ == "__main__":
    main()
