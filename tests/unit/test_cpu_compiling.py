"""Kernels are compiled by processes of their own, which share them out, also with those of other ranks."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vulkan.cases import limits_for
from tplaunch.coordinator.options import RankOptions
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.compile_job import compile_all
from tplaunch.worker.cpu.kept_code import DAY, IDENTITY_LENGTH, KEPT_SECONDS, read_kernel, write_kernel
from tplaunch.worker.cpu.opening import open_cpu

NAMES = ["running.pauses", "running.run"]
HOLD = """
import sys
from pathlib import Path
from tplaunch.worker.cpu.compile_job import LOCK_NAME, _claim
from tplaunch.worker.cpu.kept_code import write_kernel
folder = Path(sys.argv[1])
with (folder / LOCK_NAME).open("ab") as locks, _claim(locks, "b", 0.0) as is_mine:
    assert is_mine
    print("held", flush=True)
    if sys.stdin.readline():
        write_kernel(folder / "b", ["theirs"], b"code")
"""


@pytest.mark.parametrize("is_done", [True, False])
def test_a_kernel_of_another_process_is_awaited(tmp_path: Path, is_done: bool) -> None:
    """Where that ends without having compiled it, it is compiled after all."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        done = compile_all(tmp_path, ["b", "a"], lambda name: ([f"my {name}"], b"code"))
        assert next(done) == "a"
        holder.stdin.write(b"go on\n" * is_done)
        holder.stdin.close()
        assert list(done) == ["b"] * (not is_done)
    assert read_kernel(tmp_path / "b") == (["theirs" if is_done else "my b"], b"code")


def test_what_is_there_is_not_compiled_again(tmp_path: Path) -> None:
    write_kernel(tmp_path / "a", [], b"code")
    assert list(compile_all(tmp_path, ["a", "b"], lambda name: ([], b"other"))) == ["b"]
    assert read_kernel(tmp_path / "a") == ([], b"code")


def test_processes_compile_and_a_later_start_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They write to one pipe, also where nothing is buffered, as in many containers."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    kernels, told = Kernels(tmp_path), list[str]()
    assert kernels.missing(NAMES) == NAMES
    kernels.compile(NAMES, told.append)
    assert sorted(told) == NAMES and kernels.num_compiled == len(NAMES)
    assert all(kernels[name].address for name in NAMES)
    assert Kernels(tmp_path).missing(NAMES) == []


def test_kernels_need_no_folder() -> None:
    kernels = Kernels(None)
    kernels.compile(NAMES)
    assert kernels["running.run"].parameters == ["calls", "count", "team"]
    assert kernels.missing(NAMES) == []


def test_a_damaged_file_is_compiled_anew(tmp_path: Path) -> None:
    Kernels(tmp_path).compile(NAMES)
    (path,) = tmp_path.rglob("running.run")
    path.write_bytes(path.read_bytes()[:-1])
    kernels = Kernels(tmp_path)
    assert kernels.missing(NAMES) == ["running.run"]
    kernels.compile(["running.run"])
    assert Kernels(tmp_path).missing(NAMES) == []


@pytest.mark.parametrize(
    ("numba", "error", "told"),
    [
        ("raise ImportError('NumPy is too new')", ImportError, "^NumPy is too new$"),
        ("raise RuntimeError('broken')", ImportError, "^broken$"),
        ("import os; os.kill(os.getpid(), 11)", RuntimeError, r"running\.pauses can't.* ended with -11$"),
    ],
)
def test_a_numba_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numba: str, error: type[Exception], told: str
) -> None:
    (tmp_path / "numba.py").write_text(numba)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error, match=told):
        Kernels(tmp_path / "cache").compile(NAMES)


@pytest.mark.parametrize("error", [RuntimeError("no kernel can be compiled"), OSError("no libllvmlite.so")])
def test_numpy_computes_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    if isinstance(error, OSError):
        monkeypatch.setattr(builtins, "__import__", _refusing("tplaunch.worker.cpu.code", fail))
    monkeypatch.setattr(Kernels, "missing", lambda *_: ["running.run"])
    monkeypatch.setattr(Kernels, "compile", fail)
    device = open_cpu(limits_for(), RankOptions(), 1)
    assert device.name == "numpy" and device.notes == (
        f"NumPy computes in place of compiled kernels, and is slower: {error}",
    )


def _refusing(module: str, fail: Callable[[], None]) -> Callable[..., object]:
    """An import statement that fails for one module."""
    as_always = builtins.__import__

    def imported(name: str, *arguments: Any) -> object:
        if name == module:
            fail()
        return as_always(name, *arguments)

    return imported


def test_what_can_not_be_kept_is_compiled_elsewhere(tmp_path: Path) -> None:
    """As where the disk is full: here a folder is where a kernel's file would be."""
    first = Kernels(tmp_path)
    first.compile(NAMES)
    (path,) = tmp_path.rglob("running.run")
    path.unlink()
    path.mkdir()
    kernels = Kernels(tmp_path)
    assert not kernels.fault and kernels.missing(NAMES) == ["running.run"]
    kernels.compile(["running.run"])
    assert kernels["running.run"].address and kernels.fault.startswith(f"{path.parent} can't be written")
    (tmp_path / "no folder").touch()
    nowhere = Kernels(tmp_path / "no folder")
    nowhere.compile(NAMES)
    assert nowhere.missing(NAMES) == [] and "no folder" in nowhere.fault


def test_code_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    """Nor is a kernel in another one's place."""
    Kernels(tmp_path).compile(NAMES)
    one, other = (path for name in NAMES for path in tmp_path.rglob(name))
    other.chmod(0o620)
    assert Kernels(tmp_path).missing(NAMES) == [other.name]
    other.write_bytes(one.read_bytes())
    other.chmod(0o600)
    assert Kernels(tmp_path).missing(NAMES) == [other.name]
    Kernels(tmp_path).compile([other.name])
    one.parent.chmod(0o770)
    kernels = Kernels(tmp_path)
    assert kernels.missing(NAMES) == NAMES and "others may write there" in kernels.fault
    kernels.compile(NAMES)
    assert kernels.missing(NAMES) == []


def test_a_kernel_that_can_not_be_compiled_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"running\.nothing"):
        Kernels(tmp_path).compile(["running.nothing"])


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("tplaunch.launcher.cli", {"asyncio", "vulkan"}),
        (
            "tplaunch.worker.__main__, tplaunch.worker.cpu.device",
            {"asyncio", "importlib.metadata", "numba", "subprocess", "vulkan"},
        ),
    ],
)
def test_a_start_imports_nothing_that_takes_long(modules: str, unwanted: set[str]) -> None:
    """Beyond what NumPy and LLVM import themselves, as older ones do."""
    given = "import sys, numpy, llvmlite.binding; given = set(sys.modules)"
    program = f"{given}; import {modules}; print({unwanted} & (set(sys.modules) - given))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_kernels_of_versions_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    """Once others are compiled; what was used lately stays, and whatever is no folder of kernels."""
    folder = tmp_path / "kernels"
    now = time.time()
    ages = {"0" * IDENTITY_LENGTH: KEPT_SECONDS - DAY, "1" * IDENTITY_LENGTH: KEPT_SECONDS + DAY}
    for name, seconds in {**ages, "notes": 2 * KEPT_SECONDS}.items():
        (folder / name).mkdir(parents=True)
        write_kernel(folder / name / "running.run", [], b"code")
        os.utime(folder / name, (now - seconds, now - seconds))
    (folder / ("2" * IDENTITY_LENGTH)).symlink_to(folder / "notes")
    Kernels(tmp_path).compile(NAMES)
    (own,) = {path.name for path in folder.iterdir()} - {
        "0" * IDENTITY_LENGTH,
        "2" * IDENTITY_LENGTH,
        "notes",
    }
    assert own != "1" * IDENTITY_LENGTH and (folder / "notes" / "running.run").exists()
    os.utime(folder / own, (now - 2 * DAY, now - 2 * DAY))
    Kernels(tmp_path)  # a start that compiles nothing uses them, too
    assert (folder / own).stat().st_mtime > now - DAY
