"""Requests under constraints: each text by itself, the same in any company, with errors of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fake_engine import fake_engine
from tests.grammars import small_tokenizer
from tests.unit.test_requests import limits_for, run
from tplaunch.coordinator.serving.grammar import spec as specs
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.serving.grammar.reasoning import AfterReasoning, AllOf, Markers, ReasoningBudget
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.request import Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.constraint import Constraint, ConstraintError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.pool import Bools

pytestmark = pytest.mark.unit

TOKENIZER = small_tokenizer()
SIZE = 300
KINDS = LayerKinds()
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["th", "nk"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SAMPLED = SamplingParams(seed=3, max_tokens=40, temperature=100.0, min_p=0.0, top_p=1.0)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(TOKENIZER, SIZE)
    yield made
    made.close()


def requests_of(**changes: int) -> Requests:
    engine, _ = fake_engine(limits_for(KINDS, **changes), KINDS, vocabulary_size=SIZE)
    return Requests(engine, TOKENIZER, range(TOKENIZER.vocabulary_size, SIZE))


def one(
    constraint: Constraint | None, params: SamplingParams = SAMPLED, prompt: Sequence[int] = (7, 8)
) -> Request:
    requests = requests_of()
    request = requests.add(prompt, params, constraint=constraint)
    run(requests)
    return request


def test_all_texts_of_a_request_are_what_the_grammar_describes(compiler: GrammarCompiler) -> None:
    schema = compiler.compile(specs.json_schema(SCHEMA))
    compact = compiler.compile(specs.regex('\\{"a":[0-9]{1,2},"b":"(th|nk)"\\}'))
    request = one(compact, replace(SAMPLED, n=5))
    assert len({output.text for output in request.outputs}) > 1
    for output in request.outputs:
        assert output.finish_reason == "stop" and output.stop_reason is None
        assert json.loads(output.text).keys() == {"a", "b"}
    assert one(schema).outputs[0].text.startswith("{")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"top_k": 0, "top_p": 0.9},
        {"typical_p": 0.5},
        {"repetition_penalty": 1.3},
        {"logprobs": 3},
    ],
)
def test_every_way_to_sample_keeps_to_the_grammar(compiler: GrammarCompiler, options: dict[str, Any]) -> None:
    grammar = compiler.compile(specs.regex("[0-9]{3}(thi|nk)"))
    request = one(grammar, replace(SAMPLED, **options))
    assert request.outputs[0].finish_reason == "stop"
    assert request.outputs[0].text[3:] in ("thi", "nk") and request.outputs[0].text[:3].isdigit()
    if "logprobs" in options:
        assert len(request.outputs[0].logprobs) == len(request.outputs[0].token_ids)


def test_texts_are_the_same_in_company_and_after_preemptions(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(specs.regex("[0-9]{30}x?"))
    prompts = [[5, 6, 7, number] for number in range(4)]
    alone = [one(grammar, SAMPLED, prompt).outputs[0].text for prompt in prompts]
    requests = requests_of(num_blocks=20)
    together = [requests.add(prompt, SAMPLED, constraint=grammar) for prompt in prompts]
    run(requests)
    assert requests.counts.num_preemptions > 0
    assert [request.outputs[0].text for request in together] == alone


def test_an_error_of_a_constraint_is_its_request_s_own(compiler: GrammarCompiler) -> None:
    class FailsLater:
        needs_end = False

        def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> FailsLater:
            return self

        def allowed(self, generated: Sequence[int]) -> Bools | None:
            if len(generated) == 3:
                raise ConstraintError("the third token ends it all")
            return None

    requests = requests_of()
    failing = requests.add([1, 2], replace(SAMPLED, n=2, ignore_eos=True), constraint=FailsLater())
    other = requests.add([1, 2], SAMPLED, constraint=compiler.compile(specs.choice(["think"])))
    run(requests)
    assert [output.finish_reason for output in failing.outputs] == ["error", "error"]
    assert str(failing.error) == "the third token ends it all"
    assert other.outputs[0].text == "think" and other.error is None


@pytest.mark.parametrize(
    "options",
    [
        {"min_tokens": 9},
        {"bad_token_ids": [ord("a")]},
        {"logit_bias": {ord("a"): -float("inf")}},
        {"allowed_token_ids": [ord("b")]},
    ],
)
def test_contradictions_are_errors_of_the_request(compiler: GrammarCompiler, options: dict[str, Any]) -> None:
    request = one(compiler.compile(specs.choice(["a"])), replace(SAMPLED, **options))
    assert request.outputs[0].finish_reason == "error"
    assert isinstance(request.error, ConstraintError) and "min_tokens" in str(request.error)


def test_a_grammar_needs_a_token_that_ends_the_text(compiler: GrammarCompiler) -> None:
    grammar, params = compiler.compile(specs.choice(["a"])), replace(SAMPLED, ignore_eos=True)
    with pytest.raises(RequestError, match="ignore_eos"):
        requests_of().add([1], params, constraint=grammar)
    request = one(grammar, replace(params, stop_token_ids=[9]))
    assert request.outputs[0].token_ids == [ord("a")] and request.outputs[0].stop_reason == 9


def test_stop_texts_and_lengths_end_a_text_before_its_grammar(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(specs.regex("a{9}"))
    assert one(grammar, replace(SAMPLED, stop="aaa")).outputs[0].text == ""
    assert one(grammar, replace(SAMPLED, max_tokens=4)).outputs[0].finish_reason == "length"


def test_reasoning_has_its_budget_and_then_comes_the_grammar(compiler: GrammarCompiler) -> None:
    markers = Markers("<think>", "</think>", starts_open=True)
    grammar = compiler.compile(specs.json_schema({"enum": [1, 2]}))
    both = AllOf([AfterReasoning(grammar, markers, TOKENIZER), ReasoningBudget(4, markers, TOKENIZER)])
    for seed in range(4):
        request = one(both, replace(SAMPLED, seed=seed, skip_special_tokens=False))
        (output,) = request.outputs
        _, end, answer = output.text.partition("</think>")
        assert output.finish_reason == "stop" and end and answer.lstrip("\n") in ("1", "2")
        assert len(output.token_ids) <= 4 + len(TOKENIZER.encode(end, add_special=False)) + len(answer)
        assert len(answer) <= 3  # at most two line ends come first


def test_masks_of_the_first_text_leave_the_second_alone() -> None:
    class Counts:
        needs_end = False

        def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> _Second:
            return _Second(vocabulary_size)

    request = one(Counts(), replace(SAMPLED, n=3, max_tokens=3, ignore_eos=True))
    assert [output.token_ids for output in request.outputs] == [[0, 1, 2]] * 3


class _Second:
    """Allows the token of the number of tokens so far, which it counts itself."""

    def __init__(self, size: int) -> None:
        self._size, self._count = size, 0

    def allowed(self, generated: Sequence[int]) -> Bools:
        self._count += 1
        table: Bools = np.arange(self._size) == self._count - 1
        return table
