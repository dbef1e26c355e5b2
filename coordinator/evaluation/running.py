"""Runs a task's items: all of them wait for their steps at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.evaluation.scoring import SCORING, encode_pair, score_of, scored
from tplaunch.coordinator.evaluation.tasks import Choices, Written
from tplaunch.coordinator.serving.request import Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError


def run_items(
    requests: Requests, tokenizer: Tokenizer, items: Sequence[Choices | Written], name: str
) -> Iterator[dict[str, Any]]:
    """Yields each item's result as it comes. name: of the file, for errors.

    Raises InputError before anything is computed for an item that can't be, and a request's own error.
    """
    by_item: list[list[Request]] = []
    item_of: dict[Request, int] = {}
    for number, item in enumerate(items):
        try:
            by_item.append(list(_requests(requests, tokenizer, item)))
        except (RequestError, TokenizerError, ValueError) as error:
            raise InputError(f"{name}, line {item.line}: {error}") from error
        item_of.update(dict.fromkeys(by_item[number], number))
    while len(requests):
        for event in requests.step():
            if not event.request.is_finished:
                continue
            if event.request.error is not None:
                raise event.request.error
            number = item_of.pop(event.request)
            waiting = by_item[number]
            if waiting and all(request.is_finished for request in waiting):  # perhaps several in one step
                yield _result(items[number], waiting)
                by_item[number] = []


def _requests(requests: Requests, tokenizer: Tokenizer, item: Choices | Written) -> Iterator[Request]:
    if isinstance(item, Written):
        params = SamplingParams(temperature=0, max_tokens=item.max_tokens, stop=item.stop)
        yield requests.add(tokenizer.encode(item.prompt), params)
        return
    for choice in item.choices:
        context, continuation = encode_pair(tokenizer, item.prompt, choice)
        if not continuation:
            raise RequestError(f"the choice {choice!r:.40} has no tokens of its own behind the prompt")
        prompt, reading = scored(context, continuation)
        yield requests.add(prompt, SCORING, reading=reading)


def _result(item: Choices | Written, requests: Sequence[Request]) -> dict[str, Any]:
    if isinstance(item, Written):
        return item.result(requests[0].outputs[0].text)
    return item.result([score_of(request) for request in requests])
