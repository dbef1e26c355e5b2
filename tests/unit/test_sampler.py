"""Sampling against a plain reference, its distribution, its seeds and its errors."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.coordinator.serving.sampler import Sampler, SamplingParameters, _likeliest

EVERYTHING: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # all filters off


def reference_probabilities(logits: list[float], parameters: SamplingParameters) -> dict[int, float]:
    """Token -> probability, likeliest first: the filters one after another, as they are defined."""
    tokens = sorted((i for i in range(len(logits)) if logits[i] > -math.inf), key=lambda i: (-logits[i], i))
    if parameters.top_k:
        tokens = tokens[: parameters.top_k]
    if parameters.top_p < 1:
        probabilities = softmax([logits[i] for i in tokens])
        count = next(n for n in range(1, len(tokens) + 1) if sum(probabilities[:n]) >= parameters.top_p)
        tokens = tokens[:count]
    probabilities = softmax([logits[i] for i in tokens])
    tokens = [i for i, p in zip(tokens, probabilities) if p >= parameters.min_p * probabilities[0]]
    return dict(zip(tokens, softmax([logits[i] / parameters.temperature for i in tokens])))


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


@given(
    size=st.integers(1, 4000),
    num_values=st.sampled_from([1, 3, 50, 10**6]),
    top_k=st.integers(1, 70),
    ruled_out=st.sampled_from([0.0, 0.3, 0.99]),
    seed=st.integers(0, 2**32),
)
def test_the_likeliest_of_many_are_those_of_a_sort(
    size: int, num_values: int, top_k: int, ruled_out: float, seed: int
) -> None:
    """More than a group, many of them equal, many or nearly all ruled out."""
    random = np.random.default_rng(seed)
    logits = random.integers(0, num_values, size).astype(np.float32)
    logits[random.random(size) < ruled_out] = -np.inf
    expected = sorted(np.flatnonzero(logits > -np.inf), key=lambda token: (-logits[token], token))[:top_k]
    assert _likeliest(logits, top_k).tolist() == expected


def row(*logits: float) -> npt.NDArray[Any]:
    return np.array(logits, np.float32)


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 8) | st.just(-math.inf), min_size=1, max_size=60),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 70),
    top_p=st.sampled_from([0.0, 0.137, 0.5003, 0.9501, 1.0]),  # not on a boundary, where rounding decides
    min_p=st.sampled_from([0.0, 0.0517, 0.4003, 0.9]),
    seed=st.integers(0, 2**64),
)
def test_picks_what_the_plain_reference_picks(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits[0] = 0.0  # one at least is possible
    parameters = SamplingParameters(temperature, top_k, top_p, min_p, seed)
    wanted = np.random.Generator(np.random.PCG64(seed)).random()
    probabilities = reference_probabilities(logits, parameters)
    reached = zip(probabilities, accumulate(probabilities.values()))
    expected = next((token for token, total in reached if total > wanted), list(probabilities)[-1])
    assert Sampler(parameters).sample(row(*logits)) == expected


@given(st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 2.5]), min_size=1))
def test_temperature_zero_picks_the_first_of_the_likeliest(logits: list[float]) -> None:
    logits[-1] = 0.0  # one at least is possible
    sampler = Sampler(SamplingParameters(temperature=0))
    assert sampler.sample(row(*logits)) == logits.index(max(logits))


def test_frequencies_are_the_probabilities() -> None:
    parameters = SamplingParameters(temperature=1.5, top_k=7, top_p=0.98, min_p=0.02, seed=1)
    logits = [0.0, 1.0, -1.0, 2.0, 1.5, -3.0, -math.inf, 0.5, 3.0]
    expected = reference_probabilities(logits, parameters)
    assert len(expected) == 6
    sampler, drawn = Sampler(parameters), 20_000
    counts = np.bincount([sampler.sample(row(*logits)) for _ in range(drawn)], minlength=len(logits))
    assert set(np.flatnonzero(counts).tolist()) == set(expected)
    chi_square = sum((counts[i] - drawn * p) ** 2 / (drawn * p) for i, p in expected.items())
    assert chi_square < 20.5  # 99.9 % for 5 degrees of freedom


def test_a_seed_gives_these_tokens_everywhere() -> None:
    logits = np.linspace(-2, 2, 100, dtype=np.float32)
    sampler = Sampler(SamplingParameters(seed=42))
    assert [sampler.sample(logits) for _ in range(10)] == [79, 90, 74, 82, 98, 66, 79, 78, 97, 90]


def test_without_a_seed_samplers_differ() -> None:
    logits = np.zeros(100_000, np.float32)
    picks = [Sampler(SamplingParameters(**EVERYTHING)).sample(logits) for _ in range(3)]
    assert len(set(picks)) > 1


def test_of_equal_logits_the_lowest_ids_make_the_cut() -> None:
    logits = np.zeros(1000, np.float32)
    logits[[17, 900]] = 1
    sampler = Sampler(SamplingParameters(top_k=5, top_p=1, min_p=0, seed=0))
    assert {sampler.sample(logits) for _ in range(500)} == {17, 900, 0, 1, 2}


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30])
def test_extreme_temperatures_neither_overflow_nor_fail(temperature: float) -> None:
    sampler = Sampler(SamplingParameters(temperature, seed=0))
    picks = {sampler.sample(row(-3e38, 3e38, 0.0, 3e38)) for _ in range(50)}
    assert picks == {1, 3}


def test_ruled_out_tokens_are_never_picked() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[7, 30]] = 5
    sampler = Sampler(SamplingParameters(temperature=100, seed=0, **EVERYTHING))
    assert {sampler.sample(logits) for _ in range(100)} == {7, 30}


@pytest.mark.parametrize("temperature", [0.0, 100.0])
def test_suppressed_tokens_are_never_picked(temperature: float) -> None:
    parameters = SamplingParameters(temperature=temperature, seed=0, top_k=0, top_p=1, min_p=0)
    sampler = Sampler(parameters, suppressed={0, 3, 4, 99})  # 99 is outside
    picks = {sampler.sample(row(5.0, 1.0, 2.0, 9.0, 9.0)) for _ in range(100)}
    assert picks == ({2} if temperature == 0 else {1, 2})


@pytest.mark.parametrize("suppressed", [(), (5, 99)])
def test_logits_are_left_as_they_were(suppressed: tuple[int, ...]) -> None:
    logits = np.arange(100, dtype=np.float32)
    logits.flags.writeable = False
    Sampler(SamplingParameters(seed=0), suppressed).sample(logits)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (row(0, math.nan, math.nan), "2 of 3 logits are NaN"),
        (row(math.nan, math.inf), "1 of 2 logits are NaN"),
        (row(0, math.inf), r"1 of 2 logits are \+inf"),
        (row(-math.inf, -math.inf), "all 2 logits are -inf"),
        (row(), r"not of shape \(0,\)"),
        (np.zeros((1, 4), np.float32), r"not of shape \(1, 4\)"),
    ],
)
def test_broken_logits_are_named(logits: npt.NDArray[Any], message: str, temperature: float) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(SamplingParameters(temperature)).sample(logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 40.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", True),
        ("seed", -1),
        ("seed", 0.5),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must .*, not '?{value}'?$"):
        SamplingParameters(**{name: value})
