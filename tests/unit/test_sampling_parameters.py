"""SamplingParams: what it takes, in which forms, and how it refuses the rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tplaunch.coordinator.serving.sampling.parameters import STAGES, SamplingParams


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("top_k", -1, 0),
        ("top_k", np.int64(7), 7),
        ("temperature", 1, 1.0),
        ("stop", None, ()),
        ("stop", "\n\n", ("\n\n",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop_token_ids", [3, 4], (3, 4)),
        ("stop_token_ids", None, ()),
        ("bad_token_ids", {5}, (5,)),
        ("logit_bias", {"50": -100, 3: 1}, {50: -100.0, 3: 1.0}),
        ("logit_bias", {3: -math.inf}, {3: -math.inf}),
        ("max_tokens", None, None),
        ("logprobs", 0, 0),
        ("seed", -1, None),
        ("samplers", "top_k;temp;typ_p", ("top_k", "temperature", "typical_p")),
        ("samplers", "", ()),
        ("samplers", ["min_p"], ("min_p",)),
        ("dry_sequence_breakers", (), ()),
    ],
)
def test_usual_forms_are_taken(name: str, given: Any, kept: Any) -> None:
    assert getattr(SamplingParams(**{name: given}), name) == kept


def test_the_defaults_of_sampling_are_llama_cpp_s() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert params.samplers == STAGES == (
        "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("n", 0, "n must be between 1 and 1024, not 0"),
        ("n", 10**9, "n must be between 1 and 1024, not 1000000000"),
        ("temperature", -0.1, "temperature must be finite and at least 0, not -0.1"),
        ("temperature", math.nan, "temperature must be finite and at least 0, not nan"),
        ("temperature", math.inf, "temperature must be finite and at least 0, not inf"),
        ("temperature", "hot", "temperature must be a number, not 'hot'"),
        ("top_k", -2, "top_k must be at least -1, not -2"),
        ("top_k", 40.0, "top_k must be a whole number, not 40.0"),
        ("top_p", 1.01, "top_p must be between 0 and 1, not 1.01"),
        ("top_p", math.nan, "top_p must be between 0 and 1, not nan"),
        ("min_p", True, "min_p must be a number, not True"),
        ("typical_p", 2, "typical_p must be between 0 and 1, not 2"),
        ("xtc_threshold", -1, "xtc_threshold must be between 0 and 1, not -1"),
        ("dry_base", 0.5, "dry_base must be between 1 and 1e.30, not 0.5"),
        ("repetition_penalty", 0, "repetition_penalty must be between 1e-06 and 1e.06, not 0"),
        ("repeat_last_n", -2, "repeat_last_n must be at least -1, not -2"),
        ("presence_penalty", math.inf, "presence_penalty must be between .* not inf"),
        ("seed", -2, "seed must be between -1 and .*, not -2"),
        ("seed", 0.5, "seed must be a whole number, not 0.5"),
        ("max_tokens", 0, "max_tokens must be at least 1, not 0"),
        ("min_tokens", 17, "min_tokens must be at most max_tokens, which is 16, not 17"),
        ("logprobs", -1, "logprobs must be at least 0, not -1"),
        ("ignore_eos", 1, "ignore_eos must be True or False, not 1"),
        ("stop", "", "stop must be texts that are not empty, not ''"),
        ("stop", [1], "stop must be texts that are not empty, not 1"),
        ("stop", 5, "stop must be texts, not 5"),
        ("stop_token_ids", "12", "stop_token_ids must be token ids, not '12'"),
        ("bad_token_ids", [-1], "bad_token_ids of a token must be at least 0, not -1"),
        ("allowed_token_ids", [], "allowed_token_ids must name at least one token; None allows all"),
        ("logit_bias", [1], r"logit_bias must map token ids to numbers, not \[1\]"),
        ("logit_bias", {"a": 1}, "logit_bias of a token must be a whole number, not 'a'"),
        (
            "logit_bias",
            {1: math.nan},
            r"logit_bias of token 1 must be between -1e\+30 and 1e\+30 or -inf, not nan",
        ),
        ("logit_bias", {1: 1.7e308}, ".* or -inf, not 1.7e.308"),
        ("samplers", "top_k;top_q", "samplers must be among penalties, .*, not 'top_q'"),
        ("samplers", ["typ_p", "typical_p"], "samplers must name each stage once, not typical_p, typical_p"),
    ],
)
def test_what_is_not_possible_is_named(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        SamplingParams(**{name: value})
