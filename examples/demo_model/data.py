"""Turns stories into batches: rows of similar length, each beginning with BOS at position 0.

It knows token ids. It does not know the model or the optimiser. Rows are grouped by length, so that little is
padding and no story is seen without its beginning, as it would be if one long stream were cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

IGNORED = -100  # the label that torch's cross entropy leaves out


def join_some(rows: list[list[int]], share: float, limit: int, rng: random.Random) -> list[list[int]]:
    """Put two stories into one row for a share of them: later positions need training, too."""
    joined: list[list[int]] = []
    waiting: list[int] | None = None
    for row in rows:
        if waiting is None and rng.random() < share:
            waiting = row
        elif waiting is not None and len(waiting) + len(row) <= limit:
            joined.append(waiting + row)
            waiting = None
        else:
            joined.append(row)
    return joined + ([waiting] if waiting else [])


def batches_of(rows: list[list[int]], tokens_per_batch: int, rng: random.Random) -> list[list[list[int]]]:
    """Shuffled batches of rows that are about equally long, each of about tokens_per_batch tokens."""
    batches: list[list[list[int]]] = [[]]
    for row in sorted(rows, key=lambda row: (len(row), rng.random())):
        if len(row) * (len(batches[-1]) + 1) > tokens_per_batch and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


def padded(batch: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, both [rows, longest - 1] int64."""
    longest = max(map(len, batch))
    tokens = np.zeros((len(batch), longest), dtype=np.int64)
    labels = np.full((len(batch), longest), IGNORED, dtype=np.int64)
    for index, row in enumerate(batch):
        tokens[index, : len(row)] = labels[index, : len(row)] = row
    return tokens[:, :-1], labels[:, 1:]


def epochs(
    rows: list[list[int]], tokens_per_batch: int, join_share: float, limit: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, in a new order each time around."""
    rng = random.Random(seed)
    while True:
        rng.shuffle(rows)
        for batch in batches_of(join_some(rows, join_share, limit, rng), tokens_per_batch, rng):
            yield padded(batch)
