"""Files and batches of the server, by the real openai package over a fake session."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch, FileObject

from tests.fake_session import LIMITS, demo_model
from tests.patience import PATIENCE, wait_for
from tests.server.test_ends import Held
from tests.serving import ECHO, NAME, Served, expected, served
from tplaunch.coordinator.server.access import Access, digest_of
from tplaunch.coordinator.server.batches import router
from tplaunch.coordinator.server.batches.folder import FILE_COST, Folder, FolderError
from tplaunch.running_clock import RunningClock

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
ENDED = ("completed", "failed", "expired", "cancelled")
MAX_BYTES = 1 << 20


def line(custom_id: str, url: str = COMPLETIONS, **fields: Any) -> str:
    body = {"temperature": 0, "max_tokens": 4, "ignore_eos": True, **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


@contextlib.contextmanager
def serving(path: Path, max_bytes: int = MAX_BYTES, **options: Any) -> Iterator[Served]:
    with contextlib.closing(Folder(path, max_bytes)) as folder, served(folder=folder, **options) as server:
        yield server


@contextlib.contextmanager
def client_of(server: Served, key: str = "none") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "kept") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def upload(client: openai.OpenAI, *lines: str, name: str = "requests.jsonl") -> FileObject:
    return client.files.create(file=(name, "".join(lines).encode()), purpose="batch")


def begin(client: openai.OpenAI, *lines: str, endpoint: Any = COMPLETIONS, **fields: Any) -> Batch:
    file = upload(client, *lines)
    fields.setdefault("completion_window", "24h")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, **fields)


def until(client: openai.OpenAI, batch: Batch, is_so: Callable[[Batch], bool]) -> Batch:
    clock = RunningClock()
    while not is_so(batch):
        assert clock() < PATIENCE, batch
        batch = client.batches.retrieve(batch.id)
    return batch


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    return until(client, batch, lambda now: now.status in ENDED)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    found = [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    by_id = {each["custom_id"]: each for each in found}
    assert len(by_id) == len(found)
    return by_id


def text_of(result: Any) -> str:
    assert result["response"]["status_code"] == 200 and result["error"] is None
    return str(result["response"]["body"]["choices"][0]["text"])


def test_a_batch_from_upload_to_output(client: openai.OpenAI) -> None:
    lines = [line(f"{index}", prompt=[index + 5]) for index in range(12)]
    batch = begin(client, *lines, metadata={"a": "b"})
    assert batch.status == "validating" and batch.metadata == {"a": "b"} and batch.endpoint == COMPLETIONS
    assert batch.expires_at is not None and batch.expires_at - batch.created_at == 86400
    batch = ended(client, batch)
    assert batch.status == "completed" and batch.error_file_id is None and batch.errors is None
    assert batch.request_counts is not None and batch.request_counts.to_dict() == {
        "total": 12,
        "completed": 12,
        "failed": 0,
    }
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    found = results(client, batch.output_file_id)
    assert {name: text_of(each) for name, each in found.items()} == {
        f"{index}": expected([index + 5], 4) for index in range(12)
    }
    assert batch.output_file_id is not None
    stored = client.files.retrieve(batch.output_file_id)
    assert stored.purpose == "batch_output" and stored.filename == f"{batch.id}_output.jsonl"
    assert [each.id for each in client.batches.list()] == [batch.id]


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hello"}]}),
        (RESPONSES, {"input": "Hello", "max_output_tokens": 4, "model": NAME}),
    ],
)
def test_other_endpoints(tmp_path: Path, endpoint: str, fields: dict[str, Any]) -> None:
    metadata = {**demo_model().metadata, "tokenizer.chat_template": ECHO}
    with serving(tmp_path, metadata=metadata) as server, client_of(server) as client:
        batch = ended(client, begin(client, line("a", endpoint, **fields), endpoint=endpoint))
        body = results(client, batch.output_file_id)["a"]["response"]["body"]
        assert batch.status == "completed" and body["usage"]["total_tokens"]
        texts = [body["choices"][0]["message"]["content"]] if endpoint == CHAT else body["output"][-1:]
        assert texts and texts[0]


def test_bad_lines_fail_alone(client: openai.OpenAI) -> None:
    lines = (line("good", prompt=[5]), line("bad", prompt=5), line("other", CHAT, messages=[]), "{\n")
    batch = ended(client, begin(client, *lines))
    assert batch.status == "completed" and batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 3)
    assert results(client, batch.output_file_id).keys() == {"good"}
    found = results(client, batch.error_file_id)
    assert found["bad"]["response"]["status_code"] == 400
    assert "url is /v1/completions, which is the batch's" in found["other"]["error"]["message"]
    assert "line 4: it is no JSON" in found[None]["error"]["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "is empty: a batch has a request a line"),
        ((line("a", prompt=[5]), line("a", prompt=[6])), "line 2: the custom_id 'a' is that of line 1"),
    ],
)
def test_a_file_that_is_no_batch(client: openai.OpenAI, tmp_path: Path, lines: Any, sentence: str) -> None:
    batch = ended(client, begin(client, *lines))
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    (error,) = batch.errors.data
    assert sentence in str(error.message) and str(tmp_path) not in str(error.message)
    assert batch.output_file_id is None and batch.error_file_id is None


def test_cancelling_keeps_what_was_answered(server: Served, client: openai.OpenAI) -> None:
    held = Held(server)
    batch = begin(client, *(line(f"{index}", prompt=[5], max_tokens=30) for index in range(40)))
    assert held.has_stepped.wait(PATIENCE)
    waiting = begin(client, line("later", prompt=[6]))
    assert client.batches.cancel(waiting.id).status == "cancelling"  # first: else its turn may come between
    assert client.batches.cancel(batch.id).status == "cancelling"
    held.may_go_on.set()
    batch, waiting = ended(client, batch), ended(client, waiting)
    assert batch.status == waiting.status == "cancelled" and batch.cancelled_at is not None
    found = results(client, batch.error_file_id)
    assert len(found) == 40 and {each["error"]["code"] for each in found.values()} == {"batch_cancelled"}
    assert waiting.error_file_id is None
    with pytest.raises(openai.ConflictError, match="nothing to cancel"):
        client.batches.cancel(batch.id)


def test_a_batch_ends_when_its_time_is_over(
    server: Served, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(server)
    for seconds in (1, 5, 25):  # the first that is long enough, on this machine, for a request to be computed
        monkeypatch.setattr(router, "_window_seconds", lambda window, seconds=seconds: seconds)
        batch = ended(client, begin(client, *(line(f"{index}", prompt=[5]) for index in range(20))))
        if held.has_stepped.is_set():
            break
    else:
        pytest.fail("no request of a batch was computed")
    held.may_go_on.set()
    assert batch.status == "expired" and batch.output_file_id is None and batch.expired_at is not None
    found = results(client, batch.error_file_id)
    assert len(found) == 20 and {each["error"]["code"] for each in found.values()} == {"batch_expired"}


@pytest.mark.parametrize("torn", [0, 25])
def test_a_batch_goes_on_at_the_next_start(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "kept"
    lines = [line(f"{index}", prompt=[index + 5], max_tokens=index + 1) for index in range(30)]
    with serving(path) as server, client_of(server) as client:
        held = Held(server, num_finished=4)
        batch = begin(client, *lines)
        until(client, batch, lambda now: bool(now.request_counts and now.request_counts.completed > 3))
        assert held.has_stepped.wait(PATIENCE)
        server.drain()
        held.may_go_on.set()
        server.await_end()  # what the batch asked for is not waited for
        assert not server.app.state.ends.was_cut
    (record,) = (path / "batches").glob("batch_*.json")
    kept = json.loads(record.read_text())
    output = path / "files" / kept["output_id"]
    before = output.read_bytes()
    assert kept["status"] == "in_progress" and 3 < len(before.splitlines()) < 30
    output.write_bytes(before + before[:torn])  # as a kill may leave it
    with serving(path) as server, client_of(server) as client:
        batch = ended(client, client.batches.retrieve(batch.id))
        assert batch.status == "completed" and batch.output_file_id is not None
        assert batch.output_file_id == kept["output_id"]
        text = client.files.content(batch.output_file_id).content
        assert text.startswith(before)
        assert {name: text_of(each) for name, each in results(client, batch.output_file_id).items()} == {
            f"{index}": expected([index + 5], index + 1) for index in range(30)
        }
    with serving(path) as server, client_of(server) as client:
        assert client.batches.retrieve(batch.id) == batch
        assert client.files.content(batch.output_file_id).content == text


def test_a_batch_of_another_model_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with serving(path) as server, client_of(server) as client:
        held = Held(server)
        batch = begin(client, line("a", prompt=[5]))
        assert held.has_stepped.wait(PATIENCE)
        server.drain()
        held.may_go_on.set()
        server.await_end()
    (record,) = (path / "batches").glob("batch_*.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "model": "another"}))
    with serving(path) as server, client_of(server) as client:
        mine = begin(client, line("b", prompt=[5]))
        assert ended(client, mine).status == "completed"
        assert client.batches.retrieve(batch.id).status == "in_progress"


def test_clients_who_wait_come_first(tmp_path: Path) -> None:
    """One of four seats stays free, and a batch asks for nothing while somebody waits for a seat."""
    limits = replace(LIMITS, max_sequences=4)
    with serving(tmp_path / "kept", limits=limits) as server, client_of(server) as client:
        held, requests = Held(server), server.opened.driver.session.requests
        batch = begin(client, *(line(f"{index}", prompt=[5], max_tokens=8) for index in range(20)))
        assert held.has_stepped.wait(PATIENCE)
        service, step, found = server.app.state.service, requests.step, set[int]()
        wait_for(lambda: service.num_open == 3)

        def count() -> Any:
            found.add(service.num_open)
            return step()

        requests.step = count  # type: ignore[method-assign]
        held.may_go_on.set()
        ended(client, batch)
        assert 3 in found and max(found) == 3 and not len(requests)
        assert client.completions.create(model=NAME, prompt=[7], max_tokens=2).choices


def test_files_are_listed_found_and_deleted(client: openai.OpenAI) -> None:
    names = ["a.jsonl", "../../etc/passwd", "b\u00fccher.jsonl"]
    files = [upload(client, line("a", prompt=[5]), name=name) for name in names]
    assert [each.filename for each in files] == names
    assert {each.id for each in client.files.list()} == {each.id for each in files}
    assert list(client.files.list(purpose="batch_output")) == []
    first = client.files.list(limit=1, order="asc")
    assert len(first.data) == 1 and first.has_more and len(list(first)) == 3
    assert client.files.retrieve(files[0].id) == files[0]
    assert client.files.content(files[0].id).text == line("a", prompt=[5])
    assert client.files.delete(files[0].id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        for name in (files[0].id, "nothing", "../lock"):
            with pytest.raises(openai.NotFoundError):
                ask(name)


def test_who_may_read_the_folder(client: openai.OpenAI, tmp_path: Path) -> None:
    file = upload(client, line("a", prompt=[5]))
    path = tmp_path / "kept"
    assert len(file.id) == len("file-") + 32
    for each in path.rglob("*"):
        assert each.stat().st_mode & 0o777 == (0o700 if each.is_dir() else 0o600), each
    with pytest.raises(FolderError, match="used by another server"):
        Folder(path, 1)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "files").symlink_to(path)
    with pytest.raises(FolderError, match=r"can't be used|is no folder of this user's own"):
        Folder(tmp_path / "strange", 1)


def test_a_key_is_needed_by_clients_and_not_by_batches(tmp_path: Path) -> None:
    access = Access((digest_of("secret"),), frozenset({"127.0.0.1"}))
    with serving(tmp_path / "kept", access=access) as server:
        with client_of(server) as client, pytest.raises(openai.AuthenticationError):
            upload(client, line("a", prompt=[5]))
        with client_of(server, "secret") as client:
            assert results(client, ended(client, begin(client, line("a", prompt=[5]))).output_file_id)


def test_the_bound_on_all_files(tmp_path: Path) -> None:
    path, room = tmp_path / "kept", 3 * FILE_COST + 3000
    with serving(path, room) as server, client_of(server) as client:
        for content in (b"x" * (room + 1), io.BytesIO(b"x" * (room + 1))):
            with pytest.raises(openai.APIStatusError, match="at most 15288 bytes of files") as caught:
                client.files.create(file=content, purpose="batch")
            assert caught.value.status_code == 413 and caught.value.code == "files_full"

        def pieces() -> Iterator[bytes]:  # of no declared length
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield b"y" * 1000

        with server.client() as raw:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            answer = raw.post("/v1/files", content=pieces(), headers=headers)
            assert answer.status_code == 413
        folder = server.app.state.batches.folder
        assert folder.used == 0 and list((path / "files").iterdir()) == []
        batch = ended(client, begin(client, *(line(f"{index}", prompt=[5]) for index in range(10))))
        assert batch.status == "failed" and batch.errors is not None and batch.errors.data
        assert batch.errors.data[0].code == "files_full"
        assert 0 < len(results(client, batch.output_file_id)) < 10
        assert batch.output_file_id is not None
        client.files.delete(batch.output_file_id)
        client.files.delete(batch.input_file_id)
        assert folder.used == 0 == sum(1 for _ in (path / "files").iterdir())


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (b"", "application/json", "a file comes as multipart/form-data"),
        (b"", "multipart/form-data", "a file comes as multipart/form-data"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "breaks off before its end"),
        (b"hello", "multipart/form-data; boundary=x", "the form can't be read"),
        (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "file is missing",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nb\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "purpose must be 'batch', and is missing",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"b" * 5000,
            "multipart/form-data; boundary=x",
            "more than 4096 bytes",
        ),
        (b"--x\r\n" + b"a" * 9000 + b": b", "multipart/form-data; boundary=x", "header"),
        (b"--x\r\n\r\n\r\n" * 40, "multipart/form-data; boundary=x", "more than 32 parts"),
    ],
)
def test_forms_that_are_refused(
    server: Served, tmp_path: Path, content: bytes, kind: str, sentence: str
) -> None:
    with server.client() as client:
        answer = client.post("/v1/files", content=content, headers={"content-type": kind})
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]
    assert server.app.state.batches.folder.used == 0
    assert list((tmp_path / "kept" / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"input_file_id": "file-none"}, "no uploaded file is called"),
        ({"endpoint": "/v1/embeddings"}, "endpoint must be"),
        ({"completion_window": "0h"}, "completion_window must be"),
        ({"completion_window": "367d"}, "completion_window must be"),
        ({"metadata": {"a": "b" * 513}}, "metadata has at most"),
        ({"metadata": {"a": 5}}, "metadata must be"),
    ],
)
def test_batches_that_are_refused(server: Served, changes: dict[str, Any], sentence: str) -> None:
    with client_of(server) as client:
        file = upload(client, line("a", prompt=[5]))
    fields = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "24h", **changes}
    answer: httpx.Response = server.post("/v1/batches", **fields)
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]


def test_a_file_stays_as_long_as_its_batch_needs_it(server: Served, client: openai.OpenAI) -> None:
    held = Held(server)
    batch = begin(client, line("a", prompt=[5]))
    with pytest.raises(openai.ConflictError, match="has the requests of"):
        client.files.delete(batch.input_file_id)
    held.may_go_on.set()
    ended(client, batch)
    assert client.files.delete(batch.input_file_id).deleted


def test_files_go_when_their_time_is_over(
    server: Served, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: Any = {"anchor": "created_at", "seconds": 3600}
    content = ("a.jsonl", line("1").encode())
    stays = client.files.create(file=content, purpose="batch")
    goes = client.files.create(file=content, purpose="batch", expires_after=after)
    assert (goes.expires_at, stays.expires_at) == (goes.created_at + 3600, None)
    batch = ended(client, begin(client, line("1", prompt=[5]), extra_body={"output_expires_after": after}))
    assert batch.output_file_id is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    for gone in (goes.id, batch.output_file_id):
        with pytest.raises(openai.NotFoundError):
            client.files.content(gone)
        assert not server.app.state.batches.folder.path_of(gone).exists()
    assert {file.id for file in client.files.list()} == {stays.id, batch.input_file_id}
    for seconds in (1, 3600.5, "x", 2592001):
        wrong: Any = {**after, "seconds": seconds}
        with pytest.raises(openai.BadRequestError, match="expires_after must have the anchor created_at"):
            client.files.create(file=content, purpose="batch", expires_after=wrong)
        with pytest.raises(openai.BadRequestError, match="output_expires_after must have"):
            begin(client, line("1"), extra_body={"output_expires_after": wrong})


def test_a_server_without_a_folder_refuses() -> None:
    with served() as server:
        assert server.get("/v1/files").status_code == server.get("/v1/batches").status_code == 501
