"""Runs requests in drawn company, chunks and memory, and compares all logits of the same text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st

from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.evidence import Floats, Wants
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.serving.sampling.pool import NeedsRow
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.serving.text_logits import all_logits


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, how much of its prompt others share, and when it is cancelled."""

    step: int
    num_shared: int
    num_own: int
    num_tokens: int
    num_texts: int
    cancelled_after: int | None


def arrivals(most_shared: int) -> st.SearchStrategy[list[Arrival]]:
    one = st.builds(
        Arrival,
        step=st.integers(0, 12),
        num_shared=st.integers(0, most_shared),
        num_own=st.integers(1, 9),
        num_tokens=st.integers(1, 6),
        num_texts=st.sampled_from([1, 1, 2]),
        cancelled_after=st.sampled_from([None, None, None, 2]),
    )
    return st.lists(one, min_size=2, max_size=5)


class Recorder:
    """The logits behind each text, as they first came; `rows` counts those that came again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found: dict[tuple[int, ...], bytes] = {}
        self.num_rows = 0
        pick_row = Sampler.pick_row

        def recorded(
            sampler: Sampler, row: Floats, position: int, generated: list[int], total: float | None = None
        ) -> Picked:
            self.note((*self.prompts[sampler], *generated), row)
            return pick_row(sampler, row, position, generated, total)

        def needs_row(*_: object) -> None:
            raise NeedsRow

        self.prompts: dict[Sampler, tuple[int, ...]] = {}
        create = Sampler.__init__

        def created(sampler: Sampler, *arguments: object, **named: object) -> None:
            create(sampler, *arguments, **named)  # type: ignore[arg-type]
            self.prompts[sampler] = tuple(named["prompt_ids"])  # type: ignore[arg-type]

        monkeypatch.setattr(Sampler, "__init__", created)
        monkeypatch.setattr(Sampler, "wants", lambda *_: Wants(whole_row=True))
        monkeypatch.setattr(Sampler, "pick", needs_row)
        monkeypatch.setattr(Sampler, "pick_row", recorded)

    def note(self, text: tuple[int, ...], row: Floats) -> None:
        """Raises AssertionError where the same text had other logits before."""
        self.num_rows += 1
        first = self._found.setdefault(text, row.tobytes())
        other = np.frombuffer(first, np.float32)
        assert first == row.tobytes(), f"{len(text)} tokens: off by up to {np.abs(row - other).max()}"


def check_texts(recorder: Recorder, engine: Engine, drawn: list[Arrival], alone: Engine) -> Requests:
    """Runs what was drawn on the engine; the texts of some then alone, in one go."""
    shared = np.random.Generator(np.random.PCG64(5)).integers(0, engine.spec.vocabulary_size, 200).tolist()
    requests, step, made = Requests(engine), 0, []
    waiting = sorted(enumerate(drawn), key=lambda pair: pair[1].step)
    while waiting or len(requests):
        while waiting and waiting[0][1].step <= step:
            number, arrival = waiting.pop(0)
            own = [(number * 7 + index * 3) % engine.spec.vocabulary_size for index in range(arrival.num_own)]
            params = SamplingParams(seed=number, max_tokens=arrival.num_tokens, n=arrival.num_texts)
            request = requests.add([*shared[: arrival.num_shared], *own], params)
            made.append((request, arrival, step))
        requests.step()
        step += 1
        for request, arrival, since in made:
            if arrival.cancelled_after is not None and step - since > arrival.cancelled_after:
                requests.cancel(request.id)
        assert step < 2000, "requests that never end"
    for request, _, _ in made:
        if alone.tells_prompts_apart:  # a text in one go would be a prompt as a whole; the recorder compares
            again = Requests(alone)
            again.add(request.prompt, request.params)
            while len(again):
                again.step()
            continue
        for output in request.outputs:
            text = [*request.prompt, *output.token_ids]
            rows = all_logits(alone, text)
            for stop in range(len(request.prompt), len(text)):
                recorder.note(tuple(text[:stop]), rows[stop - 1])
    return requests
