"""Requests drawn from the server's own document: none is answered by a fault of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.serving import ECHO, Served, served
from tplaunch.coordinator.server.batches.folder import Folder

POSTS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/files", "/v1/batches")
PATHS = (
    *((path, "POST") for path in (*POSTS, "/v1/batches/{batch_id}/cancel")),
    *((path, "GET") for path in ("/v1/files", "/v1/batches", "/v1/batches/{batch_id}")),
    *((path, "GET") for path in ("/v1/files/{file_id}", "/v1/files/{file_id}/content")),
    ("/v1/files/{file_id}", "DELETE"),
)
QUICK: dict[str, Any] = {
    "max_tokens": 2,
    "n": 1,
    "best_of": None,
    "min_tokens": 0,
    "chat_template": ECHO,
    "stream": None,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that has a file with an id that drawn batches may name."""
    with (
        contextlib.closing(Folder(tmp_path_factory.mktemp("kept"), 1 << 20)) as folder,
        served(folder=folder) as running,
    ):
        form = {"file": ("a.jsonl", b"{}\n")}
        with running.client() as client:
            kept = client.post("/v1/files", files=form, data={"purpose": "batch"}).json()
        QUICK["input_file_id"] = kept["id"]
        yield running


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_no_request_makes_the_server_fail(server: Served, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path][method]
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
        assert response.status_code in (200, 400, 404, 405, 409, 413), response.text
        if response.status_code != 200:
            assert response.json()["error"]["message"]

    ask()
