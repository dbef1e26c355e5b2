"""Sequences computed side by side in any steps, to test that nothing else decides a sequence's bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from tests import recurrent_models
from tests.latent_model import latent_spec, write_latent
from tests.models import LocalEngine, make_spec, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.spec import FeedForwardSpec, LayerSpec
from tplaunch.coordinator.split.limits import Limits

Floats = npt.NDArray[np.float32]

VOCABULARY = 48
# Steps of one sequence alone, which reaches into a third cut of its keys.
LIMITS = Limits(
    context_length=576,
    num_blocks=48,
    block_length=16,
    max_rows=576,
    max_logit_rows=576,
    max_sequences=3,
    num_window_blocks=48,
)


def write_dense(path: Path) -> None:
    """Writes a model of several weight types, whose rows end within a tile; three heads share a KV head."""
    spec = make_spec(
        embedding_length=96,
        num_heads=6,
        key_length=16,
        value_length=12,
        feed_forward_length=160,
        rope={"dimension": 12},
    )
    types = {"attn_q": "Q8_0", "ffn_gate": "Q4_0", "ffn_down": "Q8_0", "attn_k": "F16"}
    write_llama(path, spec, {f"{name}.weight": kind for name, kind in types.items()}, biases=True)


def write_experts(path: Path) -> None:
    """Two of six for each row, and one for all."""
    spec = make_spec()
    experts = ExpertsSpec(count=6, used=2, length=40, normalised=True)
    layer = LayerSpec(spec.attentions[0], FeedForwardSpec(24, suffix="_shexp"), experts=experts)
    write_llama(path, dataclasses.replace(spec, layers=(layer,) * 2))


def write_latents(path: Path) -> None:
    """As long as the kernels of long heads are for."""
    write_latent(path, latent_spec(rank=260))


WRITERS: dict[str, Callable[[Path], object]] = {
    "dense": write_dense,
    "experts": write_experts,
    "latent": write_latents,
    "convolutions": lambda path: recurrent_models.lfm2().write(path),
    "mamba2": lambda path: recurrent_models.mamba2().write(path),
    "delta": lambda path: recurrent_models.delta("qwen35").write(path),
}
RECURRENT = {"convolutions", "mamba2", "delta"}
RANKS = pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 1.0]], ids=["1", "3"])
KINDS = pytest.mark.parametrize("kind", WRITERS)
LENGTHS = st.tuples(st.integers(520, 560), st.integers(1, 70), st.integers(1, 6)).flatmap(st.permutations)


def limits_of(kind: str) -> Limits:
    """Returns the limits for a kind of model."""
    return dataclasses.replace(LIMITS, num_slots=4 if kind in RECURRENT else 0)


def assert_same_bits(bench: Bench, lengths: Sequence[int], seed: int) -> None:
    """Sequences of such lengths have the same logits side by side as alone in one chunk."""
    random = np.random.default_rng(seed)
    sequences = [random.integers(0, VOCABULARY, length).tolist() for length in lengths]
    alone = [bench.alone(tokens, random) for tokens in sequences]
    for expected, found in zip(alone, bench.together(sequences, random), strict=True):
        assert np.isfinite(expected).all() and expected.any()
        unlike = np.flatnonzero((expected.view(np.uint32) != found.view(np.uint32)).any(axis=1))
        assert not unlike.size, f"other bits at {unlike.size} of {len(expected)} positions, from {unlike[0]}"


@dataclass
class Placed:
    """A sequence with its blocks, its state's slot and how far it is computed."""

    tokens: list[int]
    seat: int
    blocks: list[int]
    window_blocks: list[int]
    slot: int
    done: int = 0


class Bench:
    """An engine that computes sequences, each put anywhere in the cache, and knows their logits."""

    def __init__(self, engine: LocalEngine, limits: Limits, of_prompts: bool = False) -> None:
        """of_prompts: whether all rows count as those of prompts."""
        self._engine, self._limits, self._of_prompts = engine, limits, of_prompts
        self._number = 0

    def alone(self, tokens: list[int], random: np.random.Generator) -> Floats:
        """Computes a sequence in one step, and has logits of every row."""
        placed = self._placed([tokens], random)
        return self._run([(placed[0], len(tokens))])[0]

    def together(self, sequences: Sequence[list[int]], random: np.random.Generator) -> list[Floats]:
        """Computes all of them in steps of any rows of any of them."""
        placed = self._placed(sequences, random)
        logits: list[list[Floats]] = [[] for _ in placed]
        while left := [index for index, one in enumerate(placed) if one.done < len(one.tokens)]:
            chosen = [index for index in random.permutation(left) if random.random() < 0.7]
            counts = list(self._counts([placed[index] for index in chosen], random))
            rows = [(placed[index], count) for index, count in zip(chosen, counts, strict=True) if count]
            two_phase = bool(random.integers(2))  # which large steps have, and small ones not
            for rank in self._engine.ranks:
                rank.two_phase = two_phase
            found = iter(self._run(rows) if rows else ())
            for index, count in zip(chosen, counts, strict=True):
                if count:
                    logits[index].append(next(found))
        return [np.concatenate(parts) for parts in logits]

    def _counts(self, chosen: list[Placed], random: np.random.Generator) -> Iterator[int]:
        """As many rows of each as fit the step: often one, as in decode."""
        room = self._limits.max_rows
        for one in chosen:
            wanted = 1 if random.random() < 0.4 else int(random.integers(1, 40))
            count = min(wanted, room, len(one.tokens) - one.done)
            room -= count
            yield count

    def _placed(self, sequences: Sequence[list[int]], random: np.random.Generator) -> list[Placed]:
        """Blocks and slots in any order, and another one for layers with windows."""
        pools = [random.permutation(self._limits.num_blocks).tolist() for _ in range(2)]
        slots = random.permutation(max(self._limits.num_slots, len(sequences))).tolist()
        placed = []
        for seat, tokens in enumerate(sequences):
            count = -(-len(tokens) // self._limits.block_length)
            blocks, window_blocks = ([pool.pop() for _ in range(count)] for pool in pools)
            slot = slots.pop() if self._limits.num_slots else -1
            placed.append(Placed(tokens, seat, blocks, window_blocks, slot))
        return placed

    def _run(self, rows: list[tuple[Placed, int]]) -> list[Floats]:
        """One step with so many rows of each; all have logits."""
        self._number += 1
        repeats = [count for _, count in rows]
        step = step_of(
            self._number,
            [
                Rows(
                    one.tokens[one.done : one.done + count],
                    one.done,
                    one.seat,
                    one.slot if one.done else -1,
                    one.slot,
                )
                for one, count in rows
            ],
            range(sum(repeats)),
            {one.seat: one.blocks for one, _ in rows},
            {one.seat: one.window_blocks for one, _ in rows},
        )
        logits = self._engine.logits(dataclasses.replace(step, of_prompts=self._of_prompts))
        for one, count in rows:
            one.done += count
        return np.split(logits, np.cumsum(repeats)[:-1])
