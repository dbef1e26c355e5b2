"""Batches of requests: what a file may hold, what is written, and how one is gone on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_session import FakeRun, fake_opened
from tests.serving import served
from tplaunch.coordinator.batches.app_answers import answers_of
from tplaunch.coordinator.batches.batch_lines import BatchLine, batch_keys, batch_lines, seeded
from tplaunch.coordinator.batches.batch_results import open_results
from tplaunch.coordinator.batches.batch_run import Answer, BatchRun
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.server.app import make_app
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.commands.batch import BatchConfig
from tplaunch.launcher.errors import UsageError

pytestmark = pytest.mark.unit

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def line(custom_id: str, prompt: Any = "The dog", url: str = COMPLETIONS, **fields: Any) -> str:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 3, **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def write(folder: Path, *lines: str) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def results_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def run(requests: Path, out: Path, answer: Answer, together: int = 4, **options: Any) -> None:
    with open_results(out) as results:
        asyncio.run(_run(requests, results, answer, together, **options))


async def _run(requests: Path, results: Any, answer: Answer, together: int, **options: Any) -> None:
    await BatchRun(answer, results, **options).run(batch_lines(requests), together)


async def echo(url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    await asyncio.sleep(0)
    return 200, {"url": url, "prompt": body["prompt"]}


def test_each_line_has_its_answer(tmp_path: Path) -> None:
    requests, out = write(tmp_path, *(line(f"id {index}", index) for index in range(9))), tmp_path / "out"
    run(requests, out, echo)
    found = {one["custom_id"]: one for one in results_of(out)}
    assert len(found) == 9 == len(results_of(out)) == len({one["id"] for one in found.values()})
    for index in range(9):
        one = found[f"id {index}"]
        assert one.keys() == {"id", "custom_id", "response", "error"} and one["error"] is None
        assert one["response"].keys() == {"status_code", "request_id", "body"}
        assert one["response"]["body"] == {"url": COMPLETIONS, "prompt": index}


@pytest.mark.parametrize(
    ("bad", "sentence", "has_id"),
    [
        ("{", "it is no JSON", False),
        ("5", "a JSON object is needed", False),
        ('{"custom_id": 5}', "custom_id is a text", False),
        ('{"custom_id": "\\ud800"}', "half of a character's escape", False),
        (json.dumps({"custom_id": "x" * 1025}), "more than 1024 bytes", False),
        (line("bad", url="/v1/embeddings"), "url is /v1/completions or /v1/chat/completions", True),
        ('{"custom_id": "bad", "method": "GET"}', "method is POST, not 'GET'", True),
        (json.dumps({"custom_id": "bad", "url": CHAT}), "body is an object", True),
        (line("bad", stream=True), "stream has no place in a batch", True),
    ],
)
def test_a_bad_line_fails_alone(tmp_path: Path, bad: str, sentence: str, has_id: bool) -> None:
    requests, out = write(tmp_path, line("a"), bad, line("b")), tmp_path / "out"
    assert len(batch_keys(requests)) == 3
    for _ in range(2):  # and is not tried again
        run(requests, out, echo)
        found = results_of(out)
        assert sorted(str(one["custom_id"]) for one in found) == sorted(
            ["a", "b", "bad" if has_id else "None"]
        )
        (failed,) = [one for one in found if one["response"] is None]
        assert failed["error"]["line"] == 2 and sentence in failed["error"]["message"]


def test_a_batch_needs_ids_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"requests\.jsonl, line 3: the custom_id 'a' is that of line 1"):
        batch_keys(write(tmp_path, line("a"), line("b"), line("a")))
    with pytest.raises(InputError, match="is empty: a batch has a request a line"):
        batch_keys(write(tmp_path))
    with pytest.raises(InputError, match="is no file: a batch is read twice"):
        batch_keys(tmp_path)
    with pytest.raises(InputError, match="can't be read: No such file"):
        batch_keys(tmp_path / "nothing")


@pytest.mark.parametrize("torn", [0, 1, 30, -1])
def test_a_batch_that_was_broken_off_is_gone_on_with(tmp_path: Path, torn: int) -> None:
    """No result is lost, and none is there twice; a line that was cut off is asked for again."""
    requests, out = write(tmp_path, *(line(f"{index}", index) for index in range(20))), tmp_path / "out"
    asked: list[Any] = []

    async def fails_in_time(url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        asked.append(body["prompt"])
        if len(asked) == 12:
            return 503, {"error": {"message": "rank 1 has ended"}}
        return await echo(url, body)

    with pytest.raises(RunError, match="rank 1 has ended"):
        run(requests, out, fails_in_time)
    whole = out.read_bytes()
    assert 5 < len(results_of(out)) < 20
    out.write_bytes(whole + whole.splitlines(keepends=True)[0][:torn])  # as a kill may leave it
    seen: list[Any] = []

    async def answer(url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        seen.append(body["prompt"])
        return await echo(url, body)

    run(requests, out, answer)
    assert out.read_bytes().startswith(whole)
    assert sorted(int(one["custom_id"]) for one in results_of(out)) == list(range(20))
    assert len(seen) == 20 - len(whole.splitlines())
    run(requests, out, answer)
    assert len(seen) == 20 - len(whole.splitlines())  # nothing is left to do


def test_results_of_something_else_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content, sentence in (
        ("hello\n", "line 1 is no result of a batch"),
        ("hello", "line 1 is no result of a batch"),  # no line that was cut off
        (line("a"), "line 1 is no result of a batch"),
        ("[" * 10_000 + "\n", "line 1 is no result of a batch"),
        ('{"custom_id": "a", "response": {}}\n' * 2, "line 2 has the id 'a' again"),
        ('{"custom_id": null, "error": null}\n', "line 1 is no result of a batch"),
    ):
        out.write_text(content)
        with pytest.raises(InputError, match=sentence), open_results(out):
            pass
        assert out.read_text() == content
    with pytest.raises(InputError, match="can't be written: Is a directory"), open_results(tmp_path):
        pass
    device = Path("/dev/full")  # reads as zeros without an end
    with pytest.raises(InputError, match="--out /dev/full is no file"), open_results(device):
        pass
    out.unlink()
    with (
        open_results(out),
        pytest.raises(InputError, match="is written by another batch just now"),
        open_results(out),
    ):
        pass


def test_what_finds_no_room_waits_for_it(tmp_path: Path) -> None:
    """And where nothing else is computed, the answer is what the server says."""
    requests, out = write(tmp_path, *(line(f"{index}", index) for index in range(6))), tmp_path / "out"
    open_now = 0

    async def has_room_for_two(url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        nonlocal open_now
        if open_now >= 2 or body["prompt"] == 3:
            await asyncio.sleep(0)
            return 429, {"error": {"message": "too many"}}
        open_now += 1
        for _ in range(3):
            await asyncio.sleep(0)
        open_now -= 1
        return 200, {}

    run(requests, out, has_room_for_two, together=6)
    codes = {one["custom_id"]: one["response"]["status_code"] for one in results_of(out)}
    assert codes == {f"{index}": 429 if index == 3 else 200 for index in range(6)}


def test_seeds_follow_from_the_batch_and_the_id() -> None:
    first, second = (BatchLine(1, name, COMPLETIONS, {"prompt": "a"}) for name in ("a", "b"))
    assert seeded(first, None) == first.body
    assert seeded(first, 1) == seeded(first, 1) != seeded(first, 2)
    assert seeded(first, 1)["seed"] != seeded(second, 1)["seed"]
    assert 0 <= seeded(first, 1)["seed"] < 2**63
    assert seeded(BatchLine(1, "a", COMPLETIONS, {"seed": 5}), 1)["seed"] == 5


def test_a_body_means_what_it_means_to_the_server(tmp_path: Path) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        (COMPLETIONS, {"prompt": ["The dog", "A cat"], "n": 2, "logprobs": 2, "echo": True, "seed": 3}),
        (COMPLETIONS, {"prompt": "The dog", "model": "other"}),
        (COMPLETIONS, {"prompt": 5}),
        (CHAT, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}),
        (COMPLETIONS, {"prompt": "The dog " * 60}),
    ]

    async def ask_all() -> list[tuple[int, Any]]:
        opened = fake_opened(FakeRun())
        async with answers_of(make_app(opened, ["fake"])) as answer:
            found = [await answer(url, body) for url, body in bodies]
        opened.close()
        return found

    found = asyncio.run(ask_all())
    assert [status for status, _ in found][:3] == [200, 404, 400]
    with served() as server, server.client() as client:
        for (url, body), (status, ours) in zip(bodies, found, strict=True):
            theirs = client.post(url, json=body)
            assert (theirs.status_code, _lasting(theirs.json())) == (status, _lasting(ours))


def _lasting(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("id", "created", "usage")}


@pytest.mark.parametrize("changes", [{"requests": None}, {"out": None}, {"seed": -1}, {"seed": 2**64}])
def test_wishes_that_can_not_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"batch takes requests|--seed -?\d+: 0 to"):
        BatchConfig(**{"requests": Path("a"), "out": Path("b"), **changes})
