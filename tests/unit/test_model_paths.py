"""Model files by any name, and what is said of those that can't be read or that change."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import make_spec, write_llama
from tests.split_files import Split
from tplaunch.coordinator.gguf.header import GgufError, read_gguf
from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.gguf.paths import lasting_path
from tplaunch.worker.weights.model_file import ModelFile

LATIN_1 = os.fsdecode(b"caf\xe9")
OPEN = """import os, sys
from pathlib import Path
from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.worker.weights.model_file import ModelFile
print(ModelFile([FilePart(os.fsdecode(os.fsencode(sys.argv[1])), int(sys.argv[2]))]).model_hash)"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_llama(path, make_spec())
    return path


def hash_elsewhere(part: FilePart) -> str:
    """Returns the hash that another process finds by the part's path."""
    command = [sys.executable, "-c", OPEN, part.path, str(part.header_bytes)]
    return (
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )


@pytest.mark.parametrize("name", [LATIN_1, "two\nlines", "a 'b' \"c\"", "-n", "é" * 60])
def test_any_name_is_a_models(tmp_path: Path, whole: Path, name: str) -> None:
    path = whole.rename(tmp_path / name)
    model = read_model(path)
    assert model.origin.parts[0].path == str(path)
    assert hash_elsewhere(model.origin.parts[0]) == model.origin.model_hash


def test_parts_of_a_model_have_any_name(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    folder = tmp_path / LATIN_1
    folder.mkdir()
    for number in range(3):
        split.path(number).rename(folder / f"{LATIN_1}-{number + 1:05}-of-00003.gguf")
    model = read_model(folder / f"{LATIN_1}-00002-of-00003.gguf")
    assert [Path(part.path).name[:5] for part in model.origin.parts] == [LATIN_1 + "-"] * 3


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_descriptor_is_the_same_file_in_other_processes(
    tmp_path: Path, whole: Path, link: bool, is_removed: bool
) -> None:
    """Also where the file has no name any more, and where the name is a link to that of the descriptor."""
    expected = read_model(whole).origin
    with whole.open("rb") as file:
        if is_removed:
            whole.unlink()
        for folder in ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd", "/proc/thread-self/fd"):
            path = Path(folder) / str(file.fileno())
            if link:
                (tmp_path / "link").unlink(missing_ok=True)
                (tmp_path / "link").symlink_to(path)
                path = tmp_path / "link"
            found = read_model(path).origin
            assert found.model_hash == expected.model_hash
            assert hash_elsewhere(found.parts[0]) == expected.model_hash


def test_links_are_followed_once(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").symlink_to("../model.gguf")
    (tmp_path / "two").symlink_to("folder/one")
    assert lasting_path(tmp_path / "two") == str(whole)
    assert lasting_path(Path(os.path.relpath(tmp_path / "two"))) == str(whole)


def a_loop(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "m: no such file"),
        (a_loop, "m can't be read: its links lead in a circle"),
        (lambda path: path.symlink_to("gone"), "m: no such file: {0} is a link to gone, where nothing is"),
        (Path.mkdir, "m is not a file, but a folder"),
        (os.mkfifo, "m is not a file, but a pipe"),
        (a_socket, "m is not a file, but a socket"),
        (lambda path: path.symlink_to("/dev/null"), "m is not a file, but a device"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("m"))
    for read in (read_gguf, read_model):
        with pytest.raises(GgufError) as caught:
            read(Path("m"))
        assert str(caught.value) == sentence.format("m")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "can't be read: File name too long"),
        ("a/" * 3000, "can't be read: File name too long"),
        ("model.gguf/part", "no such file: a part of its path is not a folder"),
        ("zero\0byte", "is no name of a file"),
    ],
)
@pytest.mark.usefixtures("whole")
def test_names_that_no_file_can_have(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(GgufError, match=sentence):
        read_model(tmp_path / name)


def test_parts_that_are_links_to_nothing(tmp_path: Path) -> None:
    split = Split(tmp_path, 2)
    split.path(1).unlink()
    split.path(1).symlink_to("gone")
    with pytest.raises(GgufError, match="is a link to gone, where nothing is"):
        read_model(split.path(0))


def test_a_file_that_changes_is_noticed(tmp_path: Path, whole: Path) -> None:
    """Another file in its place leaves the bytes that are in use alone."""
    (stamp,) = read_model(whole).stamps
    size = whole.stat().st_size
    assert stamp.change() is None and stamp.overwriting() is None
    os.utime(whole, ns=(0, stamp.modified_ns + 1))
    assert stamp.change() == stamp.overwriting() == f"{whole} was written to while it was in use"
    os.truncate(whole, 100)
    sentence = f"{whole} changed from {size} to 100 bytes while it was in use"
    assert stamp.change() == stamp.overwriting() == sentence
    (tmp_path / "other").write_bytes(bytes(size))
    (tmp_path / "other").replace(whole)
    assert stamp.change() == f"{whole} was replaced by another file while it was in use"
    assert stamp.overwriting() is None
    whole.unlink()
    assert stamp.change() == f"{whole} was removed while it was in use"
    whole.symlink_to(whole)
    assert stamp.change() == f"{whole} can't be read any more: Too many levels of symbolic links"
    assert stamp.overwriting() is None


def test_a_part_that_became_a_pipe_is_not_waited_for(whole: Path) -> None:
    parts = read_model(whole).origin.parts
    whole.unlink()
    os.mkfifo(whole)
    with pytest.raises(OSError, match="it is no file"):
        ModelFile(parts)
