"""The real lm-evaluation-harness through the server: its numbers are LLM.score's, with one begin token."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from tests.fake_session import demo_model
from tests.serving import TOKENIZER, Served, served
from tplaunch import LLM, SamplingParams

PAIRS = [("Once upon", " a time"), ("Once upon ", "a time"), ("The dog", " ran.")]
LONG = "The little fox had a friend. He was glad."

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness's own packages


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(begins_tokens=True) as running:
        yield running


@pytest.fixture(scope="module")
def llm(server: Served) -> LLM:
    return LLM.of(server.opened)


def instances(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


def harness(server: Served, **options: Any) -> LocalCompletionsAPI:
    url = f"{server.url}/v1/completions"
    return LocalCompletionsAPI(base_url=url, model="fake", max_length=63, max_retries=1, **options)


@pytest.mark.parametrize(
    "options", [{}, {"num_concurrent": 4, "batch_size": 2}, {"tokenized_requests": False}]
)
def test_loglikelihoods_are_those_of_score(server: Served, llm: LLM, options: dict[str, Any]) -> None:
    found = harness(server, **options).loglikelihood(instances(*PAIRS), disable_tqdm=True)
    scores = llm.score([before for before, _ in PAIRS], [behind for _, behind in PAIRS])
    assert found == [(score.logprob, score.is_greedy) for score in scores]


def test_rolling_loglikelihoods_have_one_begin_token(server: Served, llm: LLM) -> None:
    (found,) = harness(server).loglikelihood_rolling(instances((LONG,)), disable_tqdm=True)
    begin, *tokens = TOKENIZER.encode(LONG)
    assert begin == TOKENIZER.bos_token_id
    assert found == llm.score([begin], tokens)[0].logprob


def test_texts_are_written_until_a_stop(server: Served, llm: LLM) -> None:
    (expected,) = llm.generate("The dog", SamplingParams(temperature=0, max_tokens=9))
    asked = instances(("The dog", {"until": ["\n\n\n"], "max_gen_toks": 9}))
    assert harness(server).generate_until(asked, disable_tqdm=True) == [expected.outputs[0].text]


def test_chats_are_answered() -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    metadata = {**demo_model().metadata, "tokenizer.chat_template": template}
    with served(metadata=metadata) as server:
        url = f"{server.url}/v1/chat/completions"
        model = LocalChatCompletion(base_url=url, model="fake", max_retries=1)
        messages = model.apply_chat_template([{"role": "user", "content": "The dog"}])
        asked = instances((messages, {"until": ["\n\n\n"], "max_gen_toks": 9}))
        llm = LLM.of(server.opened)  # closes the model once nobody has it
        (expected,) = llm.generate("The dog", SamplingParams(temperature=0, max_tokens=9))
        assert model.generate_until(asked, disable_tqdm=True) == [expected.outputs[0].text]
