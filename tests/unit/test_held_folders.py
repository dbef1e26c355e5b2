"""Folders that a process holds while it lives: what killed processes have left goes, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tplaunch.launcher import held_folders
from tplaunch.launcher.held_folders import FolderGone, folder_in_use, held_temporary, remove_unused
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.worker.folders import private_temporary

HOLDER = """
import sys
from tplaunch.launcher.socket_folder import socket_folder
with socket_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@contextmanager
def holder(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in another process, and its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_the_next_run_removes_what_a_killed_one_has_left(temporary: Path) -> None:
    for name in ("tplaunch-other", "tplaunch-logs-1"):
        (temporary / name).mkdir()
    with holder(temporary) as (process, left):
        assert left.parent == temporary
        process.send_signal(signal.SIGSTOP)
        with socket_folder() as folder:
            assert left.exists() and folder.exists()  # who is frozen may go on
        assert left.exists() and not folder.exists()
        process.kill()
        process.wait()
        assert (left / "file").exists()
        with socket_folder() as folder:
            assert not left.exists() and folder.exists()
    assert sorted(path.name for path in temporary.iterdir()) == ["tplaunch-logs-1", "tplaunch-other"]


def test_a_folder_is_held_by_several_and_removed_once_nobody_does(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with folder_in_use(folder):
        with folder_in_use(folder):
            assert not remove_unused(folder)
        assert not remove_unused(folder)
    assert remove_unused(folder) and not folder.exists()
    assert not remove_unused(folder)
    with pytest.raises(FolderGone), folder_in_use(folder):
        pass


def test_what_is_no_folder_of_ones_own_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert not remove_unused(tmp_path / "file") and not remove_unused(tmp_path / "link")
    assert tmp_path.exists() and (tmp_path / "file").exists()


def test_a_folder_that_goes_before_it_is_held_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make_and_lose(prefix: str, parent: Path | None = None) -> Path:
        made.append(private_temporary(prefix, parent))
        if len(made) == 1:
            assert remove_unused(made[0])
        return made[-1]

    monkeypatch.setattr(held_folders, "private_temporary", make_and_lose)
    with held_temporary("some-", tmp_path) as folder:
        assert folder == made[1] and folder.exists()
