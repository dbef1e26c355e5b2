"""A model's bytes over sockets, models found by hash in folders, and how a host comes by its files."""

from __future__ import annotations

import functools
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.fetched_models import Fetched
from tests.models import SPEC, make_spec, write_llama
from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.launcher.hosts.fetching import obtain, streams
from tplaunch.launcher.hosts.fetching.blocks import Strips
from tplaunch.launcher.hosts.fetching.client import FetchError
from tplaunch.launcher.hosts.fetching.messages import AskBytes, BytesFollow, Refused, encode
from tplaunch.launcher.hosts.fetching.obtain import fetch_model
from tplaunch.launcher.hosts.fetching.store import Store, StoreError
from tplaunch.launcher.hosts.fetching.streams import ModelService, Stream, open_streams
from tplaunch.launcher.hosts.fetching.wanted import to_integers, wanted_blocks
from tplaunch.launcher.hosts.finder import FolderFinder, ModelError
from tplaunch.launcher.hosts.messages import WantedModel
from tplaunch.running_clock import RunningClock

Context = Any  # zmq.Context, whose parameter older packages lack


def plain(socket: object) -> None:
    """Leaves a socket as it is: these tests stay on this machine."""


@pytest.fixture
def context() -> Iterator[Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def fetched(tmp_path: Path) -> Iterator[Fetched]:
    write_llama(tmp_path / "m.gguf", make_spec(vocabulary_size=2000))
    fetched = Fetched.of(tmp_path / "m.gguf", tmp_path / "cache")
    with fetched.server:
        yield fetched


def obtained(
    fetched: Fetched, context: Context, port: int, said: list[str], timeout: float = 20.0
) -> tuple[FilePart, ...]:
    shares = fetched.shares(2)[1:]
    wanted = to_integers(wanted_blocks(fetched.spec, shares, fetched.model.tensors))

    def opened(stopped: threading.Event) -> Any:
        return open_streams(context, f"tcp://127.0.0.1:{port}", plain, timeout, stopped, obtain.NUM_STREAMS)

    stopped = threading.Event()
    return fetch_model(fetched.server.facts, wanted, fetched.cache, opened, said.append, stopped)


def test_a_host_comes_by_its_part(fetched: Fetched, context: Context) -> None:
    said: list[str] = []
    with ModelService(fetched.server, context, "127.0.0.1", plain) as service:
        parts = obtained(fetched, context, service.port, said)
    assert [Path(part.path) for part in parts] == fetched.paths
    fetched.check(fetched.shares(2)[1:])
    assert len(said) == 1 and re.match(r"fetched [0-9.]+ MB at ", said[0])
    # What is there needs no head.
    assert obtained(fetched, context, service.port, said, timeout=0.1) == parts
    assert len(said) == 1


def test_a_head_that_is_silent_is_named(
    fetched: Fetched, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "ASK_AGAIN_SECONDS", 0.1)
    with zmq.Context() as others, others.socket(zmq.ROUTER) as deaf:
        port = deaf.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(FetchError, match=rf":{port} has sent nothing of the model for 0\.4 s"):
            obtained(fetched, context, port, [], timeout=0.4)


def test_a_question_without_answer_is_asked_again(
    fetched: Fetched, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is dead for a while; another takes its port."""
    monkeypatch.setattr(streams, "ASK_AGAIN_SECONDS", 0.2)
    asked = AskBytes(Strips(0, 0, 4, 4, 1))
    with context.socket(zmq.ROUTER) as first:
        port = first.bind_to_random_port("tcp://127.0.0.1")
        stream = Stream(context, f"tcp://127.0.0.1:{port}", plain, 20.0, threading.Event())

        def answer() -> None:
            peer, number, _ = first.recv_multipart()
            first.send_multipart([peer, b"earlier", b"\x90", b""])
            peer, again, _ = first.recv_multipart()
            assert again == number
            first.send_multipart([peer, number, encode(Refused("no")), b""])

        thread = threading.Thread(target=answer)
        thread.start()
        assert stream.ask(asked) == (Refused("no"), b"")
        thread.join()
        stream.close()


def test_a_host_that_was_stopped_goes_on_to_wait_for_the_head(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z: between two looks at the clock an hour has passed."""
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(streams, "RunningClock", functools.partial(RunningClock, lambda: float(next(hours))))
    monkeypatch.setattr(streams, "GLANCE_MILLISECONDS", 20)
    stream = Stream(context, "tcp://127.0.0.1:9", plain, 0.2, threading.Event())
    with pytest.raises(FetchError, match="nothing of the model"):
        stream.ask(AskBytes(Strips(0, 0, 1, 1, 1)))
    assert next(hours) > 4 * 3600  # looks, each of which counts for little
    stream.close()


def test_a_stream_that_is_stopped_ends_at_once(context: Context) -> None:
    stopped = threading.Event()
    stopped.set()
    stream = Stream(context, "tcp://127.0.0.1:9", plain, 60.0, stopped)
    with pytest.raises(FetchError, match="stopped"):
        stream.ask(AskBytes(Strips(0, 0, 1, 1, 1)))
    stream.close()


def test_nonsense_leaves_the_service_running(fetched: Fetched, context: Context) -> None:
    with ModelService(fetched.server, context, "127.0.0.1", plain) as service:
        with context.socket(zmq.DEALER) as stranger:
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(f"tcp://127.0.0.1:{service.port}")
            for frames in ([b"x"], [b"1", b"\xc1", b""], [b"1", b"\xc1"], [b"1", bytes(100_000)], [b""] * 40):
                stranger.send_multipart(frames)
        stream = Stream(context, f"tcp://127.0.0.1:{service.port}", plain, 20.0, threading.Event())
        reply, data = stream.ask(AskBytes(Strips(0, 0, 4, 4, 1)))
        assert isinstance(reply, BytesFollow) and bytes(data) == b"GGUF"
        stream.close()


def test_an_answer_that_is_none_ends_the_fetch(context: Context) -> None:
    with context.socket(zmq.ROUTER) as liar:
        port = liar.bind_to_random_port("tcp://127.0.0.1")
        stream = Stream(context, f"tcp://127.0.0.1:{port}", plain, 20.0, threading.Event())
        thread = threading.Thread(
            target=lambda: liar.send_multipart([*liar.recv_multipart()[:2], b"\xc1", b"data"])
        )
        thread.start()
        with pytest.raises(FetchError, match="answer is none"):
            stream.ask(AskBytes(Strips(0, 0, 4, 4, 1)))
        thread.join()
        stream.close()


def test_two_processes_fetch_one_model_in_turn(
    fetched: Fetched, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "LOCK_GLANCE_SECONDS", 0.01)
    said: list[str] = []
    first = Store(fetched.cache, fetched.server.facts)
    first.__enter__()

    def let_go(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            first.__exit__(None, None, None)

    class Said(list[str]):
        append = staticmethod(let_go)

    with ModelService(fetched.server, context, "127.0.0.1", plain) as service:
        obtained(fetched, context, service.port, Said())
    assert said[0].startswith("waiting for another process that fetches the same model")
    assert said[1].startswith("fetched")


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said: list[str] = []
    progress = obtain.Progress(said.append, lambda done, total: None)
    for step in range(1, 13):
        now[0] += 1
        progress(step * 100_000_000, 1_200_000_000)
    assert said == [
        "fetching the model: 500.0 MB at 100 MB/s, of 1.20 GB",
        "fetching the model: 1.00 GB at 100 MB/s, of 1.20 GB",
    ]


def test_there_is_no_cache_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert obtain.models_cache() == Path("/x/tplaunch/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(StoreError, match="XDG_CACHE_HOME"):
        obtain.models_cache()


def found(fetched: Fetched, *folders: Path) -> list[str] | None:
    facts = fetched.server.facts
    try:
        stamps = FolderFinder((), folders).find(WantedModel("m", facts.model_hash, facts.parts, 1.0))
        return [stamp.path for stamp in stamps]
    except ModelError:
        return None


def test_a_model_is_found_by_what_it_is(fetched: Fetched, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    (own / "deep" / "er").mkdir(parents=True)
    other.mkdir()
    content = Path(fetched.model.origin.parts[0].path).read_bytes()
    assert found(fetched, own, other) is None
    write_llama(own / "another.gguf", SPEC)
    (own / "shorter.gguf").write_bytes(content[:-1])
    (own / "same-size.gguf").write_bytes(b"GGUF" + bytes(len(content) - 4))
    os.mkfifo(own / "pipe.gguf")
    (own / "circle.gguf").symlink_to("circle.gguf")
    assert found(fetched, own) is None
    (own / "deep" / "er" / "Any Name").write_bytes(content)
    assert found(fetched, other, own) == [str(own / "deep" / "er" / "Any Name")]


def test_links_are_followed_only_inside_a_folder(fetched: Fetched, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    model = Path(fetched.model.origin.parts[0].path)
    (own / "link.gguf").symlink_to(model)
    (own / "folder").symlink_to(tmp_path)
    assert found(fetched, own) is None
    (own / "blob").write_bytes(model.read_bytes())  # as Hugging Face's cache has it
    (own / "link.gguf").unlink()
    (own / "link.gguf").symlink_to("blob")
    assert found(fetched, own) == [str(own / "blob")]
    (tmp_path / "named").symlink_to(own)
    assert found(fetched, tmp_path / "named") == [str(own / "blob")]
