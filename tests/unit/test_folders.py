"""The user's folders, a run's private ones and its logs, whatever stands in their place."""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.headroom import check_descriptors, check_threads
from tplaunch.launcher.logs import MAX_KEPT_RUNS, RunLogs
from tplaunch.launcher.socket_folder import MAX_SOCKET_PATH, socket_folder
from tplaunch.worker.faults import fault_sentence
from tplaunch.worker.folders import make_private, private_temporary, user_folder
from tplaunch.worker.measuring.measurements import Measurements, cache_folder

ENDED = 1 << 30  # larger than any process id


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=[0o777, 0])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("value", ["relative/state", "", ".", "~/state"])
def test_relative_folders_are_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_STATE_HOME", value)
    assert user_folder("XDG_STATE_HOME", ".local/state") == Path("/home/someone/.local/state")
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert user_folder("XDG_STATE_HOME", ".local/state") == Path("/elsewhere")


@pytest.mark.parametrize("home", ["", "relative", None])
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, temporary: Path, home: str | None) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # KeyError: no passwd entry
    else:
        monkeypatch.setenv("HOME", home)
    assert cache_folder() is None
    logs = RunLogs(verbose=False)
    assert logs.path(0).parent.parent == temporary
    logs.close(keep=False)
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("umask")
def test_no_umask_opens_or_closes_a_private_folder(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(private_temporary("x-", tmp_path)) == 0o700
    logs = RunLogs(verbose=False)
    logs.output(0)
    assert (mode(logs.path(0).parent), mode(logs.path(0))) == (0o700, 0o600)
    logs.close(keep=False)
    kept = Measurements(tmp_path / "cache" / "tplaunch", {"name": "a"}, "hash")
    kept.put("matvec", {"": 1.0})
    kept.save()
    assert kept.path is not None and (mode(kept.path), mode(kept.path.parent.parent)) == (0o600, 0o700)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, a_link_to_nothing, a_link_to_itself])
@pytest.mark.parametrize("where", ["state", "state/tplaunch"])
def test_what_stands_where_logs_should_go(
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    where: str,
) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    make(tmp_path / where)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    logs = RunLogs(verbose=False)
    assert logs.path(0).parent.parent == temporary
    logs.close(keep=False)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, a_link_to_nothing, a_link_to_itself])
def test_what_stands_where_measurements_should_be(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nothing is waited for: a pipe would have no end."""
    kept = Measurements(tmp_path, {"name": "a"}, "hash")
    assert kept.path is not None
    make(kept.path)
    found = Measurements(tmp_path, {"name": "a"}, "hash")
    assert found.get("matvec") == {}
    found.put("matvec", {"": 1.0})
    found.save()  # a file in place of what can be replaced, nothing where it can't


@pytest.mark.parametrize("name", ["foreign", "20260101-000000-", "20260101-000000-12a", "é" * 9, "x-1"])
def test_foreign_names_stay_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state = tmp_path / "tplaunch"
    for i in range(MAX_KEPT_RUNS + 2):
        (state / f"2026{i:04}-000000-{ENDED}-aaaa").mkdir(parents=True)
    (state / name).mkdir()
    (state / f"20250101-000000-{ENDED}").symlink_to(tmp_path)  # a link is no run's folder
    logs = RunLogs(verbose=False)
    assert logs.path(0).parent.parent == state
    logs.close(keep=False)
    names = {path.name for path in state.iterdir()}
    assert {name, f"20250101-000000-{ENDED}"} <= names
    assert len(names) == MAX_KEPT_RUNS - 1 + 2


def test_a_log_with_a_number_that_no_process_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it, it is pruned like the others."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for i in range(MAX_KEPT_RUNS + 2):
        (tmp_path / f"tplaunch/20200101-0000{i:02}-9999999999-foreign").mkdir(parents=True)
    RunLogs(verbose=False).close(keep=False)
    assert len(list((tmp_path / "tplaunch").iterdir())) == MAX_KEPT_RUNS - 1


def test_logs_in_the_temporary_folder_are_pruned_too(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    for i in range(MAX_KEPT_RUNS + 5):
        (temporary / f"tplaunch-logs-2026{i:04}-000000-{ENDED}-aaaa").mkdir()
    (temporary / "tplaunch-something").mkdir()
    logs = RunLogs(verbose=False)
    assert len(list(temporary.iterdir())) == MAX_KEPT_RUNS + 1
    logs.close(keep=False)


def test_a_full_disk_under_the_logs_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    logs = RunLogs(verbose=True)
    output = logs.output(0)
    with Path("/dev/full").open("wb", buffering=0) as full:
        os.dup2(full.fileno(), logs._files[0].fileno())
    code = "import sys\nfor i in range(3): print(i, flush=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=output)
    logs.follow(0, process)
    assert process.wait() == 0
    logs.close(keep=False)
    assert capsys.readouterr().err == "[rank 0] 0\n[rank 0] 1\n[rank 0] 2\n"


@pytest.mark.parametrize(
    "name", ["a b", 'it\'s "so"', "two\nlines", "x" * 200, b"caf\xe9".decode("utf-8", "surrogateescape")]
)
def test_sockets_have_a_folder_whatever_the_temporary_one_is_called(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / name))
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", f"{short}/{name}")
        Path(short, name).mkdir()
        with socket_folder() as folder, socket.socket(socket.AF_UNIX) as control:
            control.bind(os.fsencode(folder / "control"))
            assert len(os.fsencode(folder / "control")) <= MAX_SOCKET_PATH
            assert mode(folder) == 0o700
            assert (folder.parent.name == name) == (len(name) < 50 and "\udce9" not in name)
        assert not folder.exists()


def test_without_any_folder_the_sentence_names_those_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tplaunch.launcher.socket_folder.temporary_parents", lambda: map(Path, ["/proc", "/" + "x" * 99])
    )
    with (
        pytest.raises(RunError, match=r"no folder for the sockets.*/proc: .*too long.*set TMPDIR"),
        socket_folder(),
    ):
        pass


def test_too_few_descriptors_are_noticed_before_anything_is_started() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    check_descriptors(2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 3, hard))
    try:
        check_descriptors(2)  # the limit may be raised, and is
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before + 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        "from tplaunch.launcher.headroom import check_descriptors\ncheck_descriptors(2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "2 ranks need 23 more open files, but only" in done.stderr and "`ulimit -n`" in done.stderr


def test_too_few_threads_are_noticed_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    check_threads()
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RunError, match="no thread can be started; `ulimit -u`"):
        check_threads()
    assert len(started) == 2 and threading.active_count() == before


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(24, "Too many open files", "a\udce9"),
            r"'a\\udce9': Too many open files; `ulimit -n` raises",
        ),
        (OSError(28, "No space left on device"), r"No space left on device; free some space"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), r"'a': 'b': Invalid cross-device link$"),
        (MemoryError(), r"out of memory; close other"),
        (RuntimeError("can't start new thread"), r"no thread can be started; `ulimit -u`"),
        (io.UnsupportedOperation("not readable"), r"not readable$"),
        (ImportError("x\n\nerror was: a.so: failed to map segment"), r"a library can't be loaded: .*; close"),
        (
            ImportError("a.so: cannot open shared object file: Error 24"),
            r"a library can't be loaded: .*ulimit -n",
        ),
    ],
)
def test_faults_of_the_machine_are_sentences(error: Exception, sentence: str) -> None:
    found = fault_sentence(error)
    assert found is not None
    assert re.match(sentence, found), found


def test_faults_of_the_program_are_not(tmp_path: Path) -> None:
    import zmq

    assert fault_sentence(RuntimeError("another")) is None and fault_sentence(AssertionError("x")) is None
    assert fault_sentence(ImportError("No module named 'x'")) is None
    assert (
        fault_sentence(zmq.ZMQError(24))
        == "Too many open files; `ulimit -n` raises how many a process may have"
    )
