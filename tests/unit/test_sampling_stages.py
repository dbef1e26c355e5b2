"""Each stage and each penalty of sampling against its definition in plain Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import sampling_reference as reference
from tplaunch.coordinator.serving.sampling import repetitions as found_repetitions
from tplaunch.coordinator.serving.sampling import stages
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.penalties import Dry, Repetition
from tplaunch.coordinator.serving.sampling.pool import NeedsRow, Pool, sorted_pool
from tplaunch.coordinator.text.vocabulary import TokenizerError

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 7), min_size=1, max_size=40)
SHARES = [0.0, 0.137, 0.5003, 0.9501]  # not on a border, where rounding decides


def pool_of(logits: list[float]) -> Pool:
    return sorted_pool(np.arange(len(logits)), np.array(logits))


def assert_same(pool: Pool, expected: reference.Logits) -> None:
    assert pool.complete
    assert pool.ids.tolist() == reference.likeliest_first(expected)
    np.testing.assert_allclose(pool.logits, [expected[token] for token in pool.ids.tolist()], rtol=1e-12)


FILTERS: list[tuple[str, list[Any], Callable[[Pool, Any], Pool]]] = [
    ("top_k", [1, 5, 100], stages.keep_top_k),
    ("top_p", SHARES, stages.keep_top_p),
    ("min_p", [0.0517, 0.4003, 1.0], lambda pool, value: stages.keep_min_p(pool, float(np.log(value)))),
    ("typical_p", SHARES, stages.keep_typical),
    ("top_n_sigma", [0.31, 1.07, 3.0], stages.keep_within_sigmas),
    ("xtc_threshold", [0.0, 0.0317, 0.2503, 0.5, 0.9], stages.leave_out_top_choices),
    ("temperature", [0.3, 1.0, 2.5], stages.scale),
]


@pytest.mark.parametrize(("name", "values", "stage"), FILTERS, ids=lambda value: str(value)[:20])
@given(logits=LOGITS, data=st.data())
def test_a_stage_does_what_its_definition_says(
    name: str, values: list[Any], stage: Callable[[Pool, Any], Pool], logits: list[float], data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from(values))
    expected = getattr(reference, name.removesuffix("_threshold"))
    params = SamplingParams(**{name: value})
    assert_same(stage(pool_of(logits), value), expected(dict(enumerate(logits)), params))


TOKENS = st.integers(0, 5)


@given(
    logits=LOGITS,
    prompt=st.lists(TOKENS, max_size=8),
    generated=st.lists(TOKENS, max_size=8),
    factor=st.sampled_from([0.7, 1.0, 1.3]),
    presence=st.sampled_from([-0.5, 0.0, 1.5]),
    frequency=st.sampled_from([-0.3, 0.0, 0.7]),
    last_n=st.sampled_from([-1, 0, 1, 3, 64]),
)
def test_penalties_are_those_of_their_definition(
    logits: list[float], prompt: list[int], generated: list[int], factor: float, presence: float,
    frequency: float, last_n: int,
) -> None:  # fmt: skip
    params = SamplingParams(
        repetition_penalty=factor, presence_penalty=presence, frequency_penalty=frequency,
        repeat_last_n=last_n,
    )  # fmt: skip
    repetition = Repetition(params, prompt)
    for length in range(len(generated) + 1):  # token by token, as it is used, and twice
        for _ in range(2):
            found = repetition.apply(pool_of(logits), generated[:length])
        text = prompt + generated[:length]
        assert_same(found, reference.penalties(dict(enumerate(logits)), params, text))


PIECES = {0: b"a", 1: b" b", 2: b"\n", 3: b"x:y", 4: b"<", 5: b"|>c"}


@pytest.mark.parametrize("few", [1, 32])  # lengths that are tried one by one
@given(
    text=st.lists(TOKENS, max_size=30),
    num_prompt=st.integers(0, 30),
    allowed_length=st.sampled_from([1, 2, 4]),
    base=st.sampled_from([1.1, 1.75]),
    last_n=st.sampled_from([-1, 1, 5, 12, 100]),
    breakers=st.sampled_from([(), ("\n", ":"), ("<|>",), ("a b",)]),
)
def test_dry_is_that_of_its_definition(
    few: int, text: list[int], num_prompt: int, allowed_length: int, base: float, last_n: int,
    breakers: tuple[str, ...],
) -> None:  # fmt: skip
    params = SamplingParams(
        dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed_length, dry_penalty_last_n=last_n,
        dry_sequence_breakers=breakers,
    )  # fmt: skip
    prompt, generated = text[:num_prompt], text[num_prompt:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found_repetitions, "FEW_LENGTHS", few)
        check_dry(params, prompt, generated)


def check_dry(params: SamplingParams, prompt: list[int], generated: list[int]) -> None:
    dry = Dry(params, prompt, PIECES.__getitem__)
    logits = [1.0, 0.5, 0.25, 0.0, -0.5, -1.0]
    for length in range(len(generated) + 1):
        found = dry.apply(pool_of(logits), generated[:length])
        expected = reference.dry(dict(enumerate(logits)), params, prompt + generated[:length], PIECES)
        assert_same(found, expected)


def test_dry_looks_at_tokens_that_have_no_text() -> None:
    def token_bytes(token: int) -> bytes:
        raise TokenizerError(f"token {token} is outside the vocabulary")

    params = SamplingParams(dry_multiplier=1.0)
    found = Dry(params, [7, 8, 0, 7, 8], token_bytes).apply(pool_of([1.0, 0.5]), [])
    assert found.ids.tolist() == [1, 0] and found.logits.tolist() == [0.5, 0.0]


def test_repetitions_of_a_long_text_are_found_in_time() -> None:
    """With a base near 1 every length counts: one request would hold up all others for a minute a token."""
    params = SamplingParams(dry_multiplier=1.0, dry_base=1.00001, dry_sequence_breakers=("x",))
    dry = Dry(params, [0] * 100_000, PIECES.__getitem__)
    begin = time.process_time()
    for length in range(3):
        found = dry.apply(pool_of([1.0, 0.0]), [0] * length)
        assert found.logits[1] == pytest.approx(1.0 - 1.00001 ** (99_997 + length))
    assert time.process_time() - begin < 5


def test_dry_stops_growing_before_it_overflows() -> None:
    params = SamplingParams(dry_multiplier=1.0, dry_base=10.0, dry_sequence_breakers=())
    found = Dry(params, [0] * 5000, None).apply(pool_of([1.0, 0.0]), [])
    assert found.ids.tolist() == [1, 0] and found.logits[1] == 1.0 - 10.0**38


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e30])
def test_extreme_temperatures_neither_overflow_nor_fail(temperature: float) -> None:
    pool = stages.scale(pool_of([-3e38, 3e38, 0.0, 3e38]), temperature)
    assert {int(pool.ids[stages.draw(pool, number / 50)]) for number in range(50)} == {1, 3}


def incomplete(logits: list[float], count: int, weight: float | None = None) -> Pool:
    whole = pool_of(logits)
    return Pool(
        whole.ids[:count],
        whole.logits[:count],
        complete=False,
        reference=float(whole.logits[0]),
        weight=weight,
    )


@pytest.mark.parametrize(
    "stage",
    [
        lambda pool: stages.keep_top_k(pool, 4),
        lambda pool: stages.keep_top_p(pool, 0.5),  # the weight beyond is not known
        lambda pool: stages.keep_min_p(pool, -100.0),
        lambda pool: stages.keep_typical(pool, 0.5),
        lambda pool: stages.keep_within_sigmas(pool, 1.0),
        lambda pool: stages.leave_out_top_choices(pool, 0.1),
        lambda pool: stages.draw(pool, 0.1),
        lambda pool: stages.draw(stages.scale(pool, 2.0), 0.1),
    ],
)
def test_where_candidates_can_not_decide_the_row_is_asked_for(stage: Callable[[Pool], object]) -> None:
    with pytest.raises(NeedsRow):
        stage(incomplete([3.0, 2.0, 1.0, 0.0, -1.0], 3))


def test_a_draw_beyond_the_candidates_or_at_a_border_asks_for_the_row() -> None:
    pool = incomplete([0.0, 0.0, 0.0, 0.0], 2, weight=2.0)  # a quarter each
    assert [stages.draw(pool, number) for number in (0.0, 0.2499, 0.2501, 0.4999)] == [0, 0, 1, 1]
    for number in (0.25, 0.25 + 1e-10, 0.5, 0.75):
        with pytest.raises(NeedsRow):
            stages.draw(pool, number)
