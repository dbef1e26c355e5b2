"""Requests drawn from the server's own document: none is answered by a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.serving import ECHO, Served, served

PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
QUICK = {"max_tokens": 2, "n": 1, "best_of": None, "min_tokens": 0, "chat_template": ECHO, "stream": None}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_no_body_makes_the_server_fail(server: Served, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path]["POST"]
    modes = st.sampled_from([schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
    cases = modes.flatmap(lambda mode: operation.as_strategy(generation_mode=mode))

    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases, st.booleans())
    def ask(case: Any, is_quick: bool) -> None:
        if isinstance(case.body, dict) and is_quick:
            case.body = {**case.body, **{name: QUICK[name] for name in QUICK if name in case.body}}
        response = case.call(timeout=30)
        assert response.status_code in (200, 400, 404, 413), response.text
        if response.status_code != 200:
            assert response.json()["error"]["message"]

    ask()
