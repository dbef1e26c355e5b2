"""A model comes from a hub into the cache, once, going on where it broke; what is refused is said."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import REPOSITORY
from tests.models import write_llama
from tests.small_hub import COMMIT, TOKEN, SmallHub, serve_hub
from tests.split_files import Split

FETCH = """
import json, resource, sys
from tplaunch.launcher.config import HubModel
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hub.fetch import fetch
assert "huggingface_hub" not in sys.modules
words = json.loads(sys.argv[1])
if "max_file" in words:
    limit = words.pop("max_file")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(fetch(HubModel(**words)))
except (RunError, UsageError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
CONTENT = bytes(range(256)) * 5000
NAME = "m-Q4_K_M.gguf"


@pytest.fixture
def hub() -> Iterator[SmallHub]:
    with serve_hub() as hub:
        hub.repositories["org/m"] = {"README.md": b"x", NAME: CONTENT, "m-Q8_0.gguf": CONTENT[:1000]}
        yield hub


class Fetcher:
    """Fetches in a process of its own: huggingface_hub reads its environment once."""

    def __init__(self, hub: SmallHub, home: Path) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.environment = {**ours, **hub.environment(home)}
        self.cache = home / "hub"

    def run(self, words: dict[str, Any], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", FETCH, json.dumps({"repository": "org/m", **words})],
            env={**self.environment, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self, repository: str) -> subprocess.CompletedProcess[str]:
        """Runs `tplaunch plan` on the repository."""
        words = ["plan", "--devices", "numpy", "--json", "-hf", repository]
        return subprocess.run(
            [sys.executable, "-m", "tplaunch", *words],
            env=self.environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    def __call__(self, words: dict[str, Any] | None = None, **variables: str) -> Path:
        done = self.run(words or {}, **variables)
        assert done.returncode == 0, done.stderr
        self.remarks = done.stderr
        return Path(done.stdout.strip())

    def error(self, words: dict[str, Any] | None = None, **variables: str) -> str:
        done = self.run(words or {}, **variables)
        assert done.returncode == 1 and done.stdout == "", done
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]


@pytest.fixture
def fetch(hub: SmallHub, tmp_path: Path) -> Fetcher:
    return Fetcher(hub, tmp_path / "home")


def test_a_file_is_downloaded_once(hub: SmallHub, fetch: Fetcher) -> None:
    path = fetch()
    assert path == fetch.cache / "models--org--m" / "snapshots" / COMMIT / NAME
    assert path.read_bytes() == CONTENT
    assert fetch.remarks == f"tplaunch: downloading {NAME} of org/m, 1.3 MB\n"
    assert len(hub.contents) == 1
    assert fetch() == path and fetch.remarks == "" and len(hub.contents) == 1
    assert fetch({"quant": "q8_0"}).read_bytes() == CONTENT[:1000]


def test_the_library_finds_it_where_it_lies(fetch: Fetcher) -> None:
    path = fetch()
    program = (
        "import huggingface_hub as hub;"
        f"print(hub.hf_hub_download('org/m', {NAME!r}), hub.scan_cache_dir().repos and 'scanned')"
    )
    command = [sys.executable, "-c", program]
    environment = {**fetch.environment, "HF_HUB_OFFLINE": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(path), "scanned"]


def test_a_broken_connection_goes_on(hub: SmallHub, fetch: Fetcher) -> None:
    hub.breaks_after = [300_000, 200_000]
    assert fetch().read_bytes() == CONTENT
    ranges = [request.partition("bytes=")[2] for request in hub.contents]
    assert ranges == ["", "300000-", "500000-"]


def test_another_process_goes_on_where_one_ended(hub: SmallHub, fetch: Fetcher) -> None:
    message = fetch.error({"max_file": 700_000})
    assert (
        message.startswith("RunError: the model can't be brought into the cache")
        and "what came is" in message
    )
    hub.requests.clear()
    assert fetch().read_bytes() == CONTENT
    (content,) = hub.contents
    assert 0 < int(content.partition("bytes=")[2].rstrip("-")) <= 700_000


def test_an_interrupted_download_is_not_lost(hub: SmallHub, fetch: Fetcher) -> None:
    hub.pauses_after = 600_000
    with subprocess.Popen(
        [sys.executable, "-m", "tplaunch", "plan", "--devices", "numpy", "-hf", "org/m"],
        env=fetch.environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert hub.is_paused.wait(60)
        blobs = fetch.cache / "models--org--m" / "blobs"
        while not blobs.is_dir() or sum(path.stat().st_size for path in blobs.iterdir()) == 0:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in errors
    hub.requests.clear()
    assert fetch().read_bytes() == CONTENT
    (content,) = hub.contents
    assert 0 < int(content.partition("bytes=")[2].rstrip("-")) <= 600_000


def test_two_at_once_download_once(hub: SmallHub, fetch: Fetcher) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch.run({}).stdout.strip(), range(2)))
    assert paths == [str(fetch())] * 2 and len(hub.contents) == 1


def test_a_server_without_ranges_sends_all_again(hub: SmallHub, fetch: Fetcher) -> None:
    hub.knows_ranges, hub.breaks_after = False, [300_000]
    assert fetch().read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_begun_anew(hub: SmallHub, fetch: Fetcher) -> None:
    path = fetch()
    blob = path.resolve()
    blob.rename(blob.with_name(blob.name + ".incomplete"))
    with (blob.parent / f"{blob.name}.incomplete").open("ab") as file:
        file.write(b"more")
    assert fetch().read_bytes() == CONTENT


def test_all_parts_and_the_model_that_they_are(hub: SmallHub, fetch: Fetcher, tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    hub.repositories["org/parts"] = {
        f"Q4/{split.path(number).name}": split.path(number).read_bytes() for number in range(3)
    }
    path = fetch({"repository": "org/parts"})
    assert path.name == split.path(0).name
    assert "downloading 3 files of org/parts" in fetch.remarks
    done = fetch.plan("org/parts")
    assert done.returncode == 0 and "downloading" not in done.stderr
    for number in range(3):
        assert (path.parent / split.path(number).name).read_bytes() == split.path(number).read_bytes()


def test_a_bar_on_a_terminal_keeps_to_it(hub: SmallHub, fetch: Fetcher) -> None:
    hub.breaks_after = [300_000]
    end, terminal = pty.openpty()
    command = [sys.executable, "-c", FETCH, json.dumps({"repository": "org/m"})]
    environment = {**fetch.environment, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while piece := os.read(end, 4096):
                shown += piece
    os.close(end)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line for line in re.split("[\r\n]+", text) if line.startswith("downloading")]
    bars = [line for line in lines if "1.3 MB" in line]
    assert bars and max(map(len, bars)) <= 80


def test_without_the_hub_the_cache_is_enough(hub: SmallHub, fetch: Fetcher) -> None:
    path = fetch()
    hub.requests.clear()
    assert fetch(HF_HUB_OFFLINE="1") == path and hub.requests == [] and fetch.remarks == ""
    assert fetch(HF_ENDPOINT="http://127.0.0.1:9") == path
    assert "http://127.0.0.1:9 can't be reached: " in fetch.remarks
    assert fetch.remarks.endswith(f"; {NAME} is taken as it is in the cache\n")
    hub.status = 503
    assert fetch() == path and "answers with an error (503) for org/m" in fetch.remarks
    assert "HF_HUB_OFFLINE is set, and org/m:Q8_0 is not in the cache" in fetch.error(
        {"quant": "Q8_0"}, HF_HUB_OFFLINE="1"
    )


def test_a_cache_that_lacks_a_part_is_not_taken(hub: SmallHub, fetch: Fetcher, tmp_path: Path) -> None:
    names = [f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    hub.repositories["org/m"] = {names[0]: b"one", names[1]: b"two"}
    path = fetch()
    (path.parent / names[1]).unlink()
    assert "HF_HUB_OFFLINE is set, and org/m is not in the cache" in fetch.error(HF_HUB_OFFLINE="1")
    assert fetch() == path and (path.parent / names[1]).read_bytes() == b"two"


def test_a_repository_that_moved_on(hub: SmallHub, fetch: Fetcher) -> None:
    before = fetch()
    hub.commit, hub.repositories["org/m"][NAME] = "f" * 40, CONTENT[::-1]
    after = fetch()
    assert after.parent.name == "f" * 40 and after.read_bytes() == CONTENT[::-1]
    assert before.read_bytes() == CONTENT
    hub.commit = "e" * 40  # with the same file
    num_contents = len(hub.contents)
    assert fetch().parent.name == "e" * 40 and len(hub.contents) == num_contents


def test_a_token_opens_what_is_gated_or_private(hub: SmallHub, fetch: Fetcher) -> None:
    hub.gated.add("org/m")
    assert f"org/m is gated: ask for access at {hub.url}/org/m, and set HF_TOKEN" in fetch.error()
    assert "your token has no access: ask for it at" in fetch.error(HF_TOKEN="hf_other")
    assert fetch(HF_TOKEN=TOKEN).read_bytes() == CONTENT
    hub.private.add("org/p")
    hub.repositories["org/p"] = hub.repositories["org/m"]
    assert f"{hub.url} has no repository org/p; set HF_TOKEN" in fetch.error({"repository": "org/p"})
    assert fetch({"repository": "org/p"}, HF_TOKEN=TOKEN).read_bytes() == CONTENT
    assert hub.tokens_elsewhere == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"repository": "org/absent"}, "UsageError: {url} has no repository org/absent; set HF_TOKEN"),
        (
            {"quant": "Q2_K"},
            "UsageError: the repository org/m has no file of quant Q2_K; there is Q4_K_M",
        ),
        ({"file": "x.gguf"}, "UsageError: -hff x.gguf: org/m has no such file; there is m-Q4_K_M.gguf"),
        ({"repository": "org/none"}, "UsageError: the repository org/none has no model as GGUF file"),
    ],
)
def test_what_the_hub_does_not_have(
    hub: SmallHub, fetch: Fetcher, words: dict[str, Any], sentence: str
) -> None:
    hub.repositories["org/none"] = {"model.safetensors": b"x"}
    assert sentence.format(url=hub.url) in fetch.error(words)


def test_what_fails_on_the_way(hub: SmallHub, fetch: Fetcher, tmp_path: Path) -> None:
    assert "RunError: http://127.0.0.1:9 can't be reached: " in fetch.error(HF_ENDPOINT="http://127.0.0.1:9")
    hub.sizes[NAME] = 10**16
    assert "RunError: org/m needs 10000000.0 GB more in " in fetch.error()
    hub.sizes.clear()
    (tmp_path / "file").touch()
    assert "RunError: the model can't be brought into the cache" in fetch.error(
        HF_HOME=str(tmp_path / "file/x")
    )
    assert "no home folder for the cache ~nobody-here/x/hub" in fetch.error(HF_HOME="~nobody-here/x")
    hub.status = 500
    assert f"RunError: {hub.url} answers with an error (500) for org/m" in fetch.error()
    hub.status = 200
    assert f"RunError: {hub.url} answers unlike Hugging Face; look at HF_ENDPOINT" in fetch.error()
    hub.status = 401
    assert "UsageError: " in fetch.error()


def test_the_command_line_runs_what_it_fetched(hub: SmallHub, fetch: Fetcher, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    hub.repositories["org/m"] = {NAME: (tmp_path / "m.gguf").read_bytes()}
    done = fetch.plan("org/m")
    assert done.returncode == 0 and done.stderr.startswith(f"tplaunch: downloading {NAME} of org/m")
    assert json.loads(done.stdout)["ranks"]
    command = [sys.executable, "-m", "tplaunch", "-hf", "org/m", "x", "--devices", "numpy,numpy"]
    command += ["--tensor-split", "1,2,3"]
    (fetch.cache / "models--org--m/snapshots" / COMMIT / NAME).unlink()
    hub.repositories["org/m"] = {NAME: CONTENT}
    hub.requests.clear()
    done = subprocess.run(
        command, env=fetch.environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--tensor-split has 3 weights" in done.stderr and hub.contents == []
    done = fetch.plan("org/absent")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
