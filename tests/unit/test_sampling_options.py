"""The command line's options of sampling: llama.cpp's names, the defaults of SamplingParams, and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.options import make_parser
from tplaunch.launcher.sampling_options import sampling_params


def params_of(*arguments: str) -> SamplingParams:
    return sampling_params(make_parser().parse_args(["run", "m.gguf", *arguments]))


def test_without_options_the_defaults_hold() -> None:
    assert params_of() == SamplingParams(max_tokens=None)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--temp", "0.5"), "temperature", 0.5),
        (("--temperature", "0.5"), "temperature", 0.5),
        (("--top-k", "5"), "top_k", 5),
        (("--top-p", "0.5"), "top_p", 0.5),
        (("--min-p", "0.1"), "min_p", 0.1),
        (("--typical", "0.5"), "typical_p", 0.5),
        (("--top-n-sigma", "1.5"), "top_n_sigma", 1.5),
        (("--xtc-probability", "0.5"), "xtc_probability", 0.5),
        (("--xtc-threshold", "0.2"), "xtc_threshold", 0.2),
        (("--dry-multiplier", "0.8"), "dry_multiplier", 0.8),
        (("--dry-base", "2"), "dry_base", 2.0),
        (("--dry-allowed-length", "3"), "dry_allowed_length", 3),
        (("--dry-penalty-last-n", "0"), "dry_penalty_last_n", 0),
        (("--dry-sequence-breaker", "a", "--dry-sequence-breaker", "b"), "dry_sequence_breakers", ("a", "b")),
        (("--dry-sequence-breaker", "none"), "dry_sequence_breakers", ()),
        (("--repeat-penalty", "1.1"), "repetition_penalty", 1.1),
        (("--repeat-last-n", "-1"), "repeat_last_n", -1),
        (("--presence-penalty", "-0.5"), "presence_penalty", -0.5),
        (("--frequency-penalty", "0.5"), "frequency_penalty", 0.5),
        (("--logit-bias", "15043+1.5", "--logit-bias", "7-inf"), "logit_bias", {15043: 1.5, 7: -math.inf}),
        (("--min-tokens", "3"), "min_tokens", 3),
        (("--stop", "\n", "--stop", "END"), "stop", ("\n", "END")),
        (("--samplers", "top_k;temperature"), "samplers", ("top_k", "temperature")),
        (("--seed", "7"), "seed", 7),
        (("--ignore-eos",), "ignore_eos", True),
    ],
)
def test_an_option_sets_its_field(arguments: tuple[str, ...], field: str, value: Any) -> None:
    assert getattr(params_of(*arguments), field) == value


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--top-p", "2"), "top_p must be between 0 and 1, not 2.0"),
        (("--samplers", "top_q"), "samplers must be among penalties"),
        (("--logit-bias", "1"), "--logit-bias 1 is not a token id with a sign and a number, such as 15043.1"),
        (("--logit-bias", "a+1"), "--logit-bias a.1 is not a token id"),
        (("--stop", ""), "stop must be texts that are not empty"),
    ],
)
def test_what_is_not_possible_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        params_of(*arguments)
