"""Chat templates that clients send: programs, which a server runs for nobody unless it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fake_session import demo_model
from tests.serving import ECHO, GREEDY, Served, served

MESSAGES = [{"role": "user", "content": "Once upon a time"}]
OWN = {
    "tokenizer.chat_template": ECHO,
    "tokenizer.chat_templates": ["loud"],
    "tokenizer.chat_template.loud": ECHO + "!",
}
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def metadata() -> dict[str, Any]:
    return {**demo_model().metadata, **OWN}


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    with served(metadata=metadata(), trusts_templates=False) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "others"), [("/v1/chat/completions", {"max_tokens": 2, **GREEDY}), ("/tokenize", {})]
)
def test_only_the_names_of_the_models_own_are_taken(
    strict: Served, path: str, others: dict[str, Any]
) -> None:
    body = {"messages": MESSAGES, **others}
    for own in (None, "loud", "default"):
        assert strict.post(path, **body, chat_template=own).status_code == 200
    for foreign in (ECHO, "", "quiet", SLOW):
        response = strict.post(path, **body, chat_template=foreign)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == "chat_template" and "--trust-request-chat-template" in error["message"]


def test_with_trust_a_slow_one_keeps_no_other_client_waiting() -> None:
    with served(metadata=metadata()) as server:

        def ask(template: str | None) -> httpx.Response:
            return server.post(
                "/v1/chat/completions", messages=MESSAGES, chat_template=template, max_tokens=1, **GREEDY
            )

        found: list[httpx.Response] = []
        slow = threading.Thread(target=lambda: found.append(ask(SLOW)))
        slow.start()
        while SLOW not in server.opened._templates:
            server.get("/health")
        assert ask(None).status_code == ask(ECHO + "?").status_code == 200
        assert slow.is_alive()
        slow.join(240)  # ten seconds of computing, on a machine that may do much else
        assert found[0].status_code == 400 and "computing time" in found[0].text
