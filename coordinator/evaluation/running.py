"""Runs a task's items: many of them wait for their steps at once, and choices share what is before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.evaluation.scoring import SCORING, encode_pair, score_of, scored
from tplaunch.coordinator.evaluation.tasks import Choices, Written
from tplaunch.coordinator.serving.request import Reading, Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError


@dataclass(frozen=True)
class _Wanted:
    """A request that is still to be added."""

    prompt: Sequence[int]
    params: SamplingParams
    reading: Reading | None = None


@dataclass
class _Run:
    """An item's requests. The first one computes what the others share with it, which then wait no longer."""

    item: Choices | Written
    wanted: Sequence[_Wanted]
    requests: list[Request] = field(default_factory=list)

    def add_some(self, requests: Requests) -> list[Request]:
        """Adds the first request, or then all others, and returns them."""
        first = len(self.requests)
        for wanted in self.wanted[first : None if first else 1]:
            self.requests.append(requests.add(wanted.prompt, wanted.params, reading=wanted.reading))
        return self.requests[first:]

    def result(self) -> dict[str, Any]:
        if isinstance(self.item, Written):
            return self.item.result(self.requests[0].outputs[0].text)
        return self.item.result([score_of(request) for request in self.requests])


def run_items(
    requests: Requests,
    tokenizer: Tokenizer,
    items: Sequence[Choices | Written],
    name: str,
    num_together: int,
) -> Iterator[dict[str, Any]]:
    """Yields each item's result as it comes. name: of the file, for errors. num_together: items at a time.

    Raises InputError before anything is computed for an item that can't be, and a request's own error.
    """
    waiting: deque[_Run] = deque()
    for item in items:
        try:
            wanted = list(_wanted(tokenizer, item))
            for one in wanted:
                requests.check(one.prompt, one.params, reading=one.reading)
        except (RequestError, TokenizerError, ValueError) as error:
            raise InputError(f"{name}, line {item.line}: {error}") from error
        waiting.append(_Run(item, wanted))
    run_of: dict[Request, _Run] = {}  # of requests that have not ended
    num_open = 0
    while waiting or num_open:
        while waiting and num_open < num_together:
            run = waiting.popleft()
            run_of.update(dict.fromkeys(run.add_some(requests), run))
            num_open += 1
        for event in requests.step():
            if not event.request.is_finished or event.request not in run_of:
                continue
            if event.request.error is not None:
                raise event.request.error
            run = run_of.pop(event.request)
            run_of.update(dict.fromkeys(run.add_some(requests), run))
            if all(request not in run_of for request in run.requests):
                num_open -= 1
                yield run.result()


def _wanted(tokenizer: Tokenizer, item: Choices | Written) -> Iterator[_Wanted]:
    if isinstance(item, Written):
        params = SamplingParams(temperature=0, max_tokens=item.max_tokens, stop=item.stop)
        yield _Wanted(tokenizer.encode(item.prompt), params)
        return
    for choice in item.choices:
        context, continuation = encode_pair(tokenizer, item.prompt, choice)
        if not continuation:
            raise RequestError(f"the choice {choice!r:.40} has no tokens of its own behind the prompt")
        prompt, reading = scored(context, continuation)
        yield _Wanted(prompt, SCORING, reading)
