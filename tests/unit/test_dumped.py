"""JSON in one piece and by parts is the same, and no part is long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tplaunch.coordinator.server import sse
from tplaunch.coordinator.server.sse import dumped, dumped_by_parts

pytestmark = pytest.mark.unit

ENTRY = {"token": "é\n", "logprob": -0.25, "bytes": [195, 169], "top_logprobs": [{"token": "a"}] * 3}
BODY = {
    "id": "a",
    "choices": [
        {"index": 0, "logprobs": {"content": [ENTRY] * 1000, "refusal": None}, "token_ids": list(range(999))},
        {"index": 1, "logprobs": {"content": [], "refusal": None}, "token_ids": [1] * 64},
        {"index": 2, "logprobs": None, "token_ids": [1] * 65},
    ],
    "usage": {"prompt_tokens": 3, "details": {}},
}


@pytest.mark.parametrize("value", [BODY, {}, [], None, "\ud800", 3, [[]], {"a": [{}, []]}, [1] * 200, [BODY]])
def test_both_are_the_same(value: Any) -> None:
    assert dumped_by_parts(value) == dumped(value)
    assert json.loads(dumped_by_parts(BODY)) == BODY


def test_no_part_of_a_long_answer_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    encode = sse._encoder.encode

    def noted(value: Any) -> str:
        text = encode(value)
        lengths.append(len(text))
        return text

    monkeypatch.setattr(sse._encoder, "encode", noted)
    whole = dumped_by_parts(BODY)
    assert max(lengths) < 65 * len(dumped(ENTRY)) < len(whole) / 10
