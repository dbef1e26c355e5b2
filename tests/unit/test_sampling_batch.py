"""Many tokens at once are the same as one by one, whatever their parameters; an error is one row's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.test_candidates import answered, spans
from tests.unit.test_sampling_exactness import row_of
from tplaunch.coordinator.serving.sampling.batch import Pick, pick_all, pick_plain
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.serving.sampling.results import gather
from tplaunch.coordinator.serving.sampling.sampler import Sampler

Floats = npt.NDArray[np.float32]
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 0.8, 1.0, 1.5]),
    top_k=st.sampled_from([0, 1, 5, 40, 40, 40, 300]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.0, 1.2]),
    logprobs=st.sampled_from([None, None, None, 3]),
)


def one_by_one(picks: Sequence[Pick], logits: Floats) -> list[int | str]:
    found: list[int | str] = []
    for pick in picks:
        try:
            found.append(pick.sampler.pick_row(logits[pick.row], pick.position, pick.generated).token)
        except LogitsError as error:
            found.append(str(error))
    return found


@given(
    size=st.sampled_from([1, 6, 300, 1000]),
    cuts=st.lists(st.integers(0, 10**6), max_size=2),
    params=st.lists(PARAMS, min_size=1, max_size=20),
    suppressed=st.sampled_from([frozenset(), frozenset({0}), frozenset({3, 5, 290})]),
    num_values=st.sampled_from([0, 0, 2]),
    ruled_out=st.sampled_from([0.0, 0.0, 0.9, 1.0]),
    seed=st.integers(0, 2**32),
)
@examples(400)
def test_many_at_once_are_the_same_as_one_by_one(
    size: int,
    cuts: list[int],
    params: list[SamplingParams],
    suppressed: frozenset[int],
    num_values: int,
    ruled_out: float,
    seed: int,
) -> None:
    logits = np.stack([row_of(size, 4.0, num_values, ruled_out, seed + row) for row in range(len(params))])
    generated = [1 % size, 2 % size]
    picks = [
        Pick(Sampler(one, size, prompt_ids=[0], suppressed=suppressed), row, seed % 1000 + row, generated)
        for row, one in enumerate(params)
    ]
    picks.reverse()  # their rows are in no order
    by_row = sorted(picks, key=lambda pick: pick.row)
    result = answered(gather([pick.sampler.wants(generated) for pick in by_row]), logits, spans(size, cuts))
    fetched: list[int] = []

    def fetch(rows: Sequence[int]) -> Floats:
        assert not fetched and list(rows) == sorted(rows)
        fetched.extend(rows)
        return logits[list(rows)]

    found = pick_all(picks, result, fetch)
    tokens = [picked.token if isinstance(picked, Picked) else str(picked) for picked in found]
    assert tokens == one_by_one(picks, logits)
    for pick, picked in zip(picks, found, strict=True):
        if isinstance(picked, Picked) and pick.sampler.params.logprobs is not None:
            total, row = float(result.log_sums[pick.row]), logits[pick.row]
            assert picked == pick.sampler.pick_row(row, pick.position, pick.generated, total)


@pytest.mark.parametrize("num_rows", [4, 7, 64])
def test_sums_have_the_same_bits_at_any_number_of_rows(num_rows: int) -> None:
    """Numbers that lie within rounding of a border: one bit of a sum would give another token."""
    logits = np.stack([row_of(500, 3.0, 0, 0.0, row) for row in range(num_rows)])
    params = SamplingParams(temperature=0.7, top_k=50, top_p=0.99, min_p=0.001, seed=1)
    for draw in range(20):
        picks = [Pick(Sampler(params, 500), row, 0, []) for row in range(num_rows)]
        for pick in picks:
            kept = logits[pick.row][np.argsort(-logits[pick.row], kind="stable")[:50]].astype(np.float64)
            kept = kept[
                : 1
                + np.searchsorted(
                    np.cumsum(np.exp(kept - kept[0])), 0.99 * np.cumsum(np.exp(kept - kept[0]))[-1]
                )
            ]
            kept = kept[kept >= kept[0] + math.log(0.001)]
            cumulative = np.cumsum(np.exp(kept / 0.7 - (kept / 0.7)[0]))
            pick.sampler._numbers._block, pick.sampler._numbers._numbers = (
                0,
                [float(cumulative[draw % (kept.size - 1)] / cumulative[-1])] * 64,
            )
        result = answered(gather([pick.sampler.wants([]) for pick in picks]), logits, spans(500, [200]))
        assert pick_plain(picks, result) == one_by_one(picks, logits)


def test_an_error_is_its_sequence_s_own() -> None:
    logits = np.zeros((5, 100), np.float32)
    logits[1, 7] = math.nan
    logits[3] = -math.inf
    picks = [Pick(Sampler(SamplingParams(seed=row), 100), row, 0, []) for row in range(5)]
    result = answered(gather([pick.sampler.wants([]) for pick in picks]), logits, spans(100, [50]))
    found = pick_all(picks, result, lambda rows: logits[list(rows)])
    assert [isinstance(picked, Picked) for picked in found] == [True, False, True, False, True]
    assert isinstance(found[1], LogitsError) and list(found[1].tokens) == [7]
    assert "1 of 100 logits are NaN" in str(found[1]) and "all 100 logits are -inf" in str(found[3])
