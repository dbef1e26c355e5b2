"""Reads the logits of whole texts from the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.request import Floats, Reading
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


def all_logits(engine: Engine, tokens: Sequence[int]) -> Floats:
    """The logits behind each token of a text [tokens, vocabulary]."""
    requests = Requests(engine)
    rows: list[Floats] = []
    reading = Reading(take_row=lambda _, row: rows.append(row))
    requests.add(tokens, SamplingParams(temperature=0), reading=reading)
    while len(requests):
        requests.step()
    return np.stack(rows)
