"""The standard streams of a process: closed, full, without a reader, not of this encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drivers import REPOSITORY

BEGIN = "import os, sys\nfrom tplaunch.launcher.streams import *\nprepare_streams()\n"


def python(
    code: str, redirections: str = "", environment: dict[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs the code after prepare_streams(). redirections: as a shell writes them."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, BEGIN + code],
        input=stdin,
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {})},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_like_dev_null(tmp_path: Path, redirections: str) -> None:
    """Files opened later never get a stream's number, here or in a child process."""
    found = tmp_path / "found"
    code = (
        f"file = open({str(found)!r}, 'w')\nassert file.fileno() > 2\n"
        "print('out', flush=True); print('error', file=sys.stderr); assert sys.stdin.read() == ''\n"
        "assert read_standard_input() == '' and not sys.stdin.isatty() and not sys.stdout.isatty()\n"
        "import subprocess\nsubprocess.run(['sh', '-c', 'cat; echo child; echo child >&2'], check=True)\n"
        "file.write('done')"
    )
    done = python(code, redirections)
    assert found.read_text() == "done", done
    assert done.returncode == 0
    assert done.stdout == (b"" if ">&-" in redirections.split() else b"out\nchild\n")
    assert done.stderr == (b"" if "2>&-" in redirections else b"error\nchild\n")


def test_what_standard_error_does_not_take_is_dropped() -> None:
    code = "print('lost', file=sys.stderr); sys.stderr.write('x' * 100000); sys.stderr.flush(); print('kept')"
    for redirections in ("2> /dev/full", "2> >(exec true)", "2< /dev/null"):
        done = python(code + "\nimport time; print('more', file=sys.stderr)", redirections)
        assert (done.returncode, done.stdout) == (0, b"kept\n"), redirections


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said_once_and_the_end_of_the_process_is_quiet(unbuffered: str) -> None:
    code = (
        "try:\n    print('x' * 9)\n    sys.stdout.flush()\nexcept StreamError as error:\n"
        "    print(error, file=sys.stderr)\nprint('after', flush=True)"
    )
    done = python(code, "> /dev/full", {"PYTHONUNBUFFERED": unbuffered})
    said = b"standard output can't be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (0, said)
    done = python(code, "1< /dev/null", {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (
        0,
        said.replace(b"No space left on device", b"Bad file descriptor"),
    )


def test_a_reader_that_has_gone_is_a_broken_pipe_once() -> None:
    read, write = os.pipe()
    os.close(read)
    code = (
        "try:\n    print('x', flush=True)\n"
        "except BrokenPipeError:\n    print('gone', file=sys.stderr)\nprint('y')"
    )
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"gone\n")


def test_text_that_a_terminal_cant_show_is_no_error() -> None:
    code = "print('caf\\xe9 \\udce9'); print('caf\\xe9 \\udce9', file=sys.stderr)"
    done = python(code, environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf? \\xe9\n", b"caf\\xe9 \\udce9\n")


def test_prompts_are_utf_8_whatever_the_locale_says() -> None:
    code = "print(ascii(read_standard_input()))"
    text = "Möwe\r\nx\n".encode() + b"\xff"
    done = python(code, environment={"PYTHONIOENCODING": "latin-1"}, stdin=text)
    assert (done.returncode, done.stdout) == (0, b"'M\\xf6we\\nx\\n\\ufffd'\n")


@pytest.mark.parametrize(
    ("redirections", "sentence"),
    [
        ("< /dev/zero", b"standard input has more than 64 MiB: that is no prompt"),
        ("0> /dev/null", b"standard input can't be read: Bad file descriptor"),
    ],
)
def test_input_that_is_no_prompt(redirections: str, sentence: bytes) -> None:
    code = "try:\n    read_standard_input()\nexcept StreamError as error:\n    print(error)"
    done = python(code, redirections)
    assert (done.returncode, done.stdout) == (0, sentence + b"\n")


def test_pipes_that_do_not_block_are_waited_for() -> None:
    """Another process that has the same pipe may have made it so."""
    code = (
        "os.set_blocking(0, False); os.set_blocking(1, False)\n"
        "print('ready', file=sys.stderr); print(len(read_standard_input()), 'x' * 300000)"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code], stdin=pipe, stdout=pipe, stderr=pipe, cwd=REPOSITORY
    )
    with process:
        assert process.stdin is not None and process.stderr is not None and process.stdout is not None
        assert process.stderr.readline() == b"ready\n"
        process.stdin.write(b"y" * 100000)
        process.stdin.close()
        assert process.stdout.read() == b"100000 " + b"x" * 300000 + b"\n"
    assert process.returncode == 0
