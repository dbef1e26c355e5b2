"""Candidates give the token that the whole row gives, and the whole row the one of the definitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit import sampling_reference as reference
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError
from tplaunch.coordinator.serving.sampling.demand import active_stages
from tplaunch.coordinator.serving.sampling.evidence import evidence_of
from tplaunch.coordinator.serving.sampling.parameters import STAGES, SamplingParams
from tplaunch.coordinator.serving.sampling.picked import describe, prompt_wants
from tplaunch.coordinator.serving.sampling.pool import LogitsError, NeedsRow
from tplaunch.coordinator.serving.sampling.random_numbers import RandomNumbers
from tplaunch.coordinator.serving.sampling.sampler import Sampler

Floats = npt.NDArray[np.float32]
PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # all filters off


class FixedMask:
    """Allows some tokens whatever was generated."""

    def __init__(self, allowed: npt.NDArray[np.bool_]) -> None:
        self._allowed = allowed

    def allowed(self, generated: object) -> npt.NDArray[np.bool_]:
        return self._allowed


def row_of(size: int, spread: float, num_values: int, ruled_out: float, seed: int) -> Floats:
    """Logits of which many may be equal, and many, or all, -inf."""
    random = np.random.default_rng(seed)
    row = random.standard_normal(size) * spread
    if num_values:
        row = np.round(row * num_values) / num_values
    row[random.random(size) < ruled_out] = -np.inf
    return row.astype(np.float32)


ROWS = st.builds(
    row_of,
    size=st.sampled_from([1, 2, 5, 40, 300, 3000]),
    spread=st.sampled_from([0.5, 2.0, 8.0]),
    num_values=st.sampled_from([0, 0, 1, 4]),
    ruled_out=st.sampled_from([0.0, 0.0, 0.5, 0.95]),
    seed=st.integers(0, 2**32),
)
TOKENS = st.integers(0, 10**6)
PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 1.0, 1.5]),
        "top_k": st.sampled_from([0, 0, 1, 5, 40, 5000]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 0.0]),
        "min_p": st.sampled_from([0.0, 0.0, 0.05, 0.3]),
        "typical_p": st.sampled_from([1.0, 1.0, 1.0, 0.5]),
        "top_n_sigma": st.sampled_from([-1.0, -1.0, -1.0, 1.5]),
        "xtc_probability": st.sampled_from([0.0, 0.0, 0.5]),
        "dry_multiplier": st.sampled_from([0.0, 0.0, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.3, 0.8]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 0.5, -0.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.5]),
        "repeat_last_n": st.sampled_from([64, -1, 0, 5]),
        "logit_bias": st.none()
        | st.dictionaries(TOKENS, st.sampled_from([-100.0, -math.inf, 0.5, 5.0]), min_size=1, max_size=5),
        "bad_token_ids": st.just(()) | st.tuples(TOKENS, TOKENS),
        "allowed_token_ids": st.none() | st.none() | st.none() | st.lists(TOKENS, min_size=1, max_size=4),
        "min_tokens": st.sampled_from([0, 0, 2]),
        "seed": st.integers(0, 2**64),
        "samplers": st.just(STAGES) | st.lists(st.sampled_from(STAGES), unique=True),
        "logprobs": st.sampled_from([None, None, 0, 5]),
    }
)


def within(tokens: Any, size: int) -> Any:
    """Token ids that a vocabulary of this size holds, for those drawn without knowing it."""
    if isinstance(tokens, dict):
        return {token % size: value for token, value in tokens.items()}
    return None if tokens is None else [token % size for token in tokens]


def params_of(drawn: dict[str, Any], size: int) -> SamplingParams:
    named = ("logit_bias", "bad_token_ids", "allowed_token_ids")
    return SamplingParams(**{**drawn, **{name: within(drawn[name], size) for name in named}})


@given(
    row=ROWS,
    drawn=PARAMS,
    prompt=st.lists(TOKENS, max_size=6),
    generated=st.lists(TOKENS, max_size=6),
    suppressed=st.lists(TOKENS, max_size=2),
    allowed=st.none() | st.none() | st.sampled_from([0.05, 0.9]),
    guess=st.sampled_from([1, 3, 64]),
)
@examples(1500)
def test_candidates_give_what_the_row_gives_or_say_that_they_do_not(
    row: Floats,
    drawn: dict[str, Any],
    prompt: list[int],
    generated: list[int],
    suppressed: list[int],
    allowed: float | None,
    guess: int,
) -> None:
    mask = FixedMask(np.random.default_rng(1).random(row.size) < allowed) if allowed else None
    generated = within(generated, row.size)
    sampler = Sampler(
        params_of(drawn, row.size),
        row.size,
        prompt_ids=within(prompt, row.size),
        suppressed=within(suppressed, row.size),
        end_ids=[0],
        mask=mask,
    )
    sampler._guess = guess
    try:
        expected: int | str = sampler._pick_of_all(row, 7, generated)
    except LogitsError:  # or the constraint's own, which is one
        expected = "LogitsError"
    evidence = evidence_of(row, sampler.wants(generated))
    try:
        found: int | str = sampler.pick(evidence, 7, generated).token
    except NeedsRow:
        return
    except LogitsError:
        found = "LogitsError"
    assert found == expected


def test_candidates_are_mostly_enough() -> None:
    """With the defaults always, and without a top-k nearly so where a few tokens have most of the weight."""
    for options, most in (
        ({}, 0),
        (PLAIN, 0.5),
        ({**PLAIN, "top_p": 0.9}, 0.05),
        ({**PLAIN, "min_p": 0.05}, 0),
    ):
        num_rows = 0
        for seed in range(200):
            row = row_of(3000, 8.0, 0, 0.0, seed)
            sampler = Sampler(SamplingParams(temperature=1.0, seed=seed, **options), row.size)
            try:
                sampler.pick(evidence_of(row, sampler.wants([])), 0, [])
            except NeedsRow:
                num_rows += 1
        assert num_rows <= most * 200, options


def test_more_candidates_are_asked_for_where_some_were_too_few() -> None:
    row = np.zeros(3000, np.float32)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=1, **PLAIN), row.size)
    first = sampler.wants([]).num_candidates
    sampler.pick_row(row, 0, [])
    assert sampler.wants([]).num_candidates == 2 * first


def reference_logits(row: Floats, params: SamplingParams, text: list[int], chance: float) -> dict[int, float]:
    """Returns what is left of the row's tokens behind all stages, and their logits."""
    logits = {token: float(logit) for token, logit in enumerate(row) if logit > -math.inf}
    for token, bias in (params.logit_bias or {}).items():
        if token in logits:
            logits[token] += bias
    logits = {token: logit for token, logit in logits.items() if logit > -math.inf}
    if params.allowed_token_ids is not None:
        logits = reference.kept(logits, [token for token in params.allowed_token_ids if token in logits])
    for token in params.bad_token_ids:
        logits.pop(token, None)
    for stage in active_stages(params) if logits else ():
        if stage == "penalties":
            logits = reference.penalties(logits, params, text)
        elif stage == "dry":
            logits = reference.dry(logits, params, text, {})
        elif stage != "xtc" or chance < params.xtc_probability:
            logits = getattr(reference, stage)(logits, params)
    return logits


@given(
    size=st.sampled_from([1, 3, 40, 100]),
    values=st.lists(
        st.integers(-40, 40).map(lambda n: n / 7) | st.just(-math.inf), min_size=100, max_size=100
    ),
    drawn=PARAMS,
    text=st.lists(TOKENS, max_size=8),
    position=st.integers(0, 200),
)
@examples(600)
def test_what_is_picked_is_what_the_definitions_say(
    size: int, values: list[float], drawn: dict[str, Any], text: list[int], position: int
) -> None:
    row = np.array(values[:size], np.float32)
    text = within(text, size)
    shares = {
        "top_p": 0.9137,
        "typical_p": 0.5003,
        "min_p": 0.0517,
    }  # not on a border, where rounding decides
    drawn = {**drawn, **{name: value for name, value in shares.items() if 0 < drawn[name] < 1}}
    params = replace(params_of(drawn, size), min_tokens=0)
    chance = RandomNumbers(params.seed, purpose=1).at(position)
    probabilities = {}
    if logits := reference_logits(row, params, text, chance):
        probabilities = reference.softmax(logits)
    sampler = Sampler(params, size, prompt_ids=text)
    if not probabilities:
        with pytest.raises(LogitsError):
            sampler.pick_row(row, position, [])
        return
    found = sampler.pick_row(row, position, []).token
    if params.is_greedy:
        assert found == next(iter(probabilities))
        return
    number, ends = RandomNumbers(params.seed).at(position), list(accumulate(probabilities.values()))
    place = list(probabilities).index(found)
    assert ends[place] - probabilities[found] - 1e-9 <= number <= ends[place] + 1e-9


def test_frequencies_are_the_probabilities() -> None:
    params = SamplingParams(temperature=1.5, top_k=7, top_p=0.98, min_p=0.02, seed=1)
    row = np.array([0.0, 1.0, -1.0, 2.0, 1.5, -3.0, -math.inf, 0.5, 3.0], np.float32)
    expected = reference.softmax(reference_logits(row, params, [], 1.0))
    assert len(expected) == 6
    sampler, drawn = Sampler(params, row.size), 20_000
    counts = Counter(sampler.pick_row(row, position, []).token for position in range(drawn))
    assert set(counts) == set(expected)
    chi_square = sum((counts[token] - drawn * p) ** 2 / (drawn * p) for token, p in expected.items())
    assert chi_square < 20.5  # 99.9 % for 5 degrees of freedom


def test_a_seed_gives_these_tokens_everywhere_and_in_any_order() -> None:
    row = np.linspace(-2, 2, 100, dtype=np.float32)
    expected = [92, 89, 98, 97, 71, 96, 83, 76, 72, 95]
    for order in (range(10), reversed(range(10)), (3, 3, *range(10))):
        sampler = Sampler(SamplingParams(seed=42), row.size)
        found = {position: sampler.pick_row(row, position, []).token for position in order}
        assert [found[position] for position in range(10)] == expected


def test_texts_of_one_seed_differ_by_their_index_and_without_a_seed_always() -> None:
    def picks(**options: Any) -> list[int]:
        params = SamplingParams(seed=options.pop("seed", None), temperature=1.0, **PLAIN)
        sampler = Sampler(params, 1000, **options)
        return [sampler.pick_row(np.zeros(1000, np.float32), position, []).token for position in range(5)]

    assert picks(seed=3, index=1) == picks(seed=3, index=1)
    assert len({tuple(picks(seed=3, index=index)) for index in range(5)}) == 5
    assert len({tuple(picks()) for _ in range(5)}) == 5


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("logits", "message", "tokens"),
    [
        ([0, math.nan, math.nan], "2 of 3 logits are NaN", [1, 2]),
        ([math.nan, math.inf], "1 of 2 logits are NaN", [0]),
        ([0, math.inf], r"1 of 2 logits are \+inf", [1]),
        ([-math.inf, -math.inf], "all 2 logits are -inf", []),
    ],
)
def test_broken_logits_are_named(
    logits: list[float], message: str, tokens: list[int], temperature: float
) -> None:
    row = np.array(logits, np.float32)
    sampler = Sampler(SamplingParams(temperature=temperature), row.size)
    with pytest.raises(LogitsError, match=message) as caught:
        sampler.pick_row(row, 0, [])
    assert list(caught.value.tokens) == tokens
    with pytest.raises(NeedsRow if tokens else LogitsError):
        sampler.pick(evidence_of(row, sampler.wants([])), 0, [])


def test_a_row_of_another_size_is_refused() -> None:
    with pytest.raises(LogitsError, match=r"one row of the vocabulary, not of shape \(3,\)"):
        Sampler(SamplingParams(), 4).pick_row(np.zeros(3, np.float32), 0, [])


def test_suppressed_tokens_are_never_picked_and_may_be_no_numbers() -> None:
    row = np.array([5.0, 1.0, 2.0, math.nan, 9.0], np.float32)
    row.flags.writeable = False
    for temperature, expected in ((0.0, {2}), (100.0, {1, 2})):
        params = SamplingParams(temperature=temperature, seed=0, **PLAIN)
        sampler = Sampler(params, 5, suppressed={0, 3, 4, 99})  # 99 is outside
        assert {sampler.pick_row(row, position, []).token for position in range(100)} == expected


def test_end_tokens_come_only_behind_min_tokens() -> None:
    row = np.array([0.0, 5.0], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, min_tokens=2), 2, end_ids=[1])
    assert [sampler.pick_row(row, length, [0] * length).token for length in range(4)] == [0, 0, 1, 1]


def test_a_mask_is_asked_once_for_a_token() -> None:
    class NotTwice:
        """Allows every token but the last one; counts how often it is asked."""

        num_asked = 0

        def allowed(self, generated: Sequence[int]) -> npt.NDArray[np.bool_]:
            self.num_asked += 1
            allowed = np.ones(3000, np.bool_)
            allowed[list(generated[-1:])] = False
            return allowed

    mask, row = NotTwice(), row_of(3000, 3.0, 0, 0.0, 5)
    sampler = Sampler(SamplingParams(temperature=0), row.size, mask=mask)
    generated: list[int] = []
    for _ in range(4):
        wants = sampler.wants(generated)
        assert not wants.whole_row and wants.num_candidates < 100
        generated.append(sampler.pick(evidence_of(row, wants), len(generated), generated).token)
    first, second = np.argsort(-row, kind="stable")[:2].tolist()
    assert generated == [first, second, first, second] and mask.num_asked == 4


def test_all_of_some_thousand_allowed_tokens_are_asked_for() -> None:
    """A grammar that wants a number allows more than a thousand tokens of some vocabularies."""
    row = row_of(20_000, 3.0, 0, 0.0, 5)
    table = np.zeros(row.size, np.bool_)
    table[np.argsort(row)[:3000]] = True  # the least likely ones
    sampler = Sampler(SamplingParams(seed=1), row.size, mask=FixedMask(table))
    wants = sampler.wants([])
    assert not wants.whole_row and wants.ids.tolist() == np.flatnonzero(table).tolist()
    found = sampler.pick(evidence_of(row, wants), 0, []).token
    assert table[found] and found == sampler._pick_of_all(row, 0, [])


def test_many_allowed_tokens_that_are_unlikely_are_picked_as_from_the_whole_row() -> None:
    row = row_of(60_000, 3.0, 0, 0.0, 5)
    table = np.zeros(row.size, np.bool_)
    table[np.argsort(row)[:20_000]] = True
    ways: list[dict[str, Any]] = [{}, {"temperature": 0}, {"top_k": 0}, {"top_k": 0, "typical_p": 0.5}]
    for seed, options in enumerate(ways):
        sampler = Sampler(SamplingParams(seed=seed, **options), row.size, mask=FixedMask(table))
        evidence = evidence_of(row, sampler.wants([]))
        with pytest.raises(NeedsRow):
            sampler.pick(evidence, 0, [])
        assert sampler.pick_row(row, 0, []).token == sampler._pick_of_all(row, 0, [])
    row[np.flatnonzero(~table)[0]] = np.nan
    with pytest.raises(LogitsError, match="1 of 60000 logits are NaN"):
        Sampler(SamplingParams(), row.size, mask=FixedMask(table)).pick_row(row, 0, [])


def test_a_mask_that_allows_all_changes_nothing() -> None:
    class All:
        def allowed(self, generated: Sequence[int]) -> None:
            return None

    row, params = row_of(3000, 3.0, 0, 0.0, 5), SamplingParams(seed=1, top_p=0.9, top_k=0, samplers=["top_p"])
    sampler = Sampler(params, row.size, mask=All())
    wants = sampler.wants([])
    assert not wants.whole_row
    assert sampler.pick_row(row, 0, []) == Sampler(params, row.size).pick_row(row, 0, [])


def test_a_mask_that_fails_is_the_error_of_its_text() -> None:
    class Fails:
        def allowed(self, generated: Sequence[int]) -> npt.NDArray[np.bool_]:
            raise ConstraintError("the grammar has come to an end")

    row = row_of(3000, 3.0, 0, 0.0, 5)
    sampler = Sampler(SamplingParams(), row.size, mask=Fails())
    wants = sampler.wants([])
    with pytest.raises(ConstraintError, match="come to an end"):
        sampler.pick(evidence_of(row, wants), 0, [])
    only_end = np.arange(row.size) == 7
    sampler = Sampler(SamplingParams(min_tokens=2), row.size, end_ids=[7], mask=FixedMask(only_end))
    with pytest.raises(ConstraintError, match="min_tokens"):
        sampler.pick(evidence_of(row, sampler.wants([])), 0, [])


def test_log_probabilities_are_the_model_s_own() -> None:
    row = row_of(500, 3.0, 0, 0.0, 7)
    expected = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    likeliest = np.argsort(-row, kind="stable")[:3]
    params = SamplingParams(
        temperature=0.7, seed=3, logprobs=3, top_k=2, logit_bias={int(likeliest[0]): -100}
    )
    sampler = Sampler(params, row.size)
    evidence = evidence_of(row, sampler.wants([]))
    assert evidence.ids.size < 100
    found = sampler.pick(evidence, 0, [])
    assert found == sampler.pick_row(row, 0, [], evidence.log_sum)
    assert found.token != likeliest[0] and found.logprob == pytest.approx(expected[found.token], abs=1e-6)
    assert [token for token, _ in found.top] == likeliest.tolist()
    assert [value for _, value in found.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-6)
    prompt = describe(evidence_of(row, prompt_wants(9, 2, row.size)), 9, 2)
    assert prompt.logprob == pytest.approx(expected[9], abs=1e-6) and len(prompt.top) == 2


@pytest.mark.parametrize("name", ["allowed_token_ids", "bad_token_ids", "stop_token_ids", "logit_bias"])
def test_tokens_outside_the_vocabulary_are_named(name: str) -> None:
    value: Any = {7: 1.0} if name == "logit_bias" else [7]
    Sampler(SamplingParams(**{name: value}), 8)
    with pytest.raises(ValueError, match=f"{name} must be tokens from 0 to 6, not 7"):
        Sampler(SamplingParams(**{name: value}), 7)
