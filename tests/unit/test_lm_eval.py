"""The harness's model on a fake session: what it makes of requests. Real ranks are tests/multiprocess's."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_session import FakeRun, fake_opened
from tplaunch import LLM, SamplingParams

pytest.importorskip("lm_eval")
from lm_eval.api.registry import get_model

from tplaunch.lm_eval import TplaunchLM

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PAIRS = [("Once upon", " a time"), ("Once upon ", "a time"), ("", "The dog"), ("Once up", "on")]
ECHO = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM.of(fake_opened(FakeRun())) as made:
        yield made


@pytest.fixture
def model(llm: LLM) -> TplaunchLM:
    return TplaunchLM(llm=llm, batch_size="auto", device="cuda:0")


def instances(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


def test_it_is_registered() -> None:
    assert get_model("tplaunch") is TplaunchLM and get_model("dummy") is not None


def test_loglikelihoods_are_those_of_score(model: TplaunchLM, llm: LLM) -> None:
    found = model.loglikelihood(instances(*PAIRS), disable_tqdm=True)
    scores = llm.score([before for before, _ in PAIRS], [behind for _, behind in PAIRS])
    assert found == [(score.logprob, score.is_greedy) for score in scores]


def test_rolling_loglikelihoods_count_each_token_once(model: TplaunchLM, llm: LLM) -> None:
    """Behind one begin token; a text beyond the context is parted, each part behind as much as has room."""
    short, long = "Once upon a time", "The little fox had a friend. " * 20
    found = model.loglikelihood_rolling(instances((short,), (long,)), disable_tqdm=True)
    tokens = llm.encode(short)
    rows = llm.logits(tokens).astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = sum(logprobs[index, token] for index, token in enumerate(tokens[1:]))
    assert tokens[0] == model.prefix_token_id and found[0] == pytest.approx(expected)
    whole = llm.encode(long)
    assert len(whole) > 2 * model.max_length
    total, done = 0.0, 1
    while done < len(whole):
        stop = min(len(whole), done + model.max_length)
        context = whole[max(0, stop - model.max_length - 1) : done]
        total += llm.score(context, whole[done:stop])[0].logprob
        done = stop
    assert found[1] == pytest.approx(total)


def test_the_begin_token_comes_once(model: TplaunchLM, llm: LLM) -> None:
    bos = model.prefix_token_id
    assert model.tok_encode("The dog") == llm.encode("The dog") and llm.encode("The dog")[0] == bos
    assert bos not in model.tok_encode("The dog", add_special_tokens=False)


def test_a_chat_template_that_writes_the_begin_token(model: TplaunchLM) -> None:
    opened = fake_opened(FakeRun(), {**_demo_metadata(), "tokenizer.chat_template": ECHO})
    with LLM.of(opened) as llm:
        model = TplaunchLM(llm=llm)
        text = model.apply_chat_template([{"role": "user", "content": "The dog"}])
        assert text == "<s>The dog" and model.tok_encode(text) == llm.encode("The dog")
        (found,) = model.loglikelihood(instances((text, " ran")), disable_tqdm=True)
        assert found[0] == pytest.approx(llm.score("The dog", " ran")[0].logprob)


def _demo_metadata() -> dict[str, Any]:
    from tests.fake_session import demo_model

    return dict(demo_model().metadata)


def test_texts_are_written_until_a_stop(model: TplaunchLM, llm: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=9)
    expected = [one.outputs[0].text for one in llm.generate(["The dog", "Once"], greedy)]
    wishes: list[dict[str, Any]] = [
        {"until": [], "max_gen_toks": 9},
        {"max_tokens": 9, "do_sample": False, "temperature": 0.7},
    ]
    asked = instances(("The dog", wishes[0]), ("Once", wishes[1]))
    assert model.generate_until(asked, disable_tqdm=True) == expected
    stop = expected[0][2:4]
    (stopped,) = model.generate_until(instances(("The dog", {"until": stop, "max_gen_toks": 9})), True)
    assert stopped == expected[0].partition(stop)[0]
    with pytest.raises(ValueError, match="has 'beams', which tplaunch does not know"):
        model.generate_until(instances(("The dog", {"beams": 3})), True)
    assert model._params({"temperature": 0.5, "top_p": 0.9}).top_p == 0.9
    assert model._params({}).max_tokens == 256


def test_what_has_no_room_is_cut_at_its_begin(
    model: TplaunchLM, llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    """As the harness has it, and with a warning."""
    tokens = [3 + index % 9 for index in range(80)]
    request = (("a", "b"), tokens[:70], tokens[70:])
    with caplog.at_level(logging.WARNING):
        (found,) = model._loglikelihood_tokens([request], disable_tqdm=True)
    assert "a context of 70 tokens is cut by 15 at its begin" in caplog.text
    assert found[0] == llm.score(tokens[15:70], tokens[70:])[0].logprob and math.isfinite(found[0])
    with pytest.raises(ValueError, match="a continuation has 79 tokens"):
        model._loglikelihood_tokens([(("a", "b"), tokens[:1], tokens[1:])], disable_tqdm=True)
    caplog.clear()
    text = "The little fox had a friend. " * 20
    with caplog.at_level(logging.WARNING):
        (written,) = model.generate_until(instances((text, {"max_gen_toks": 9})), True)
    expected = llm.generate(llm.encode(text)[-55:], SamplingParams(temperature=0, max_tokens=9))
    assert written == expected[0].outputs[0].text and "is cut by" in caplog.text
    with pytest.raises(ValueError, match="64 tokens are to be generated, and the context has 64"):
        model.generate_until(instances((text, {"max_gen_toks": 64})), True)
