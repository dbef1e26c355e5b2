"""Runs in odd surroundings: streams, names and folders as callers have them, and files that change."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.command_line import CommandLine, complaints
from tests.patience import PATIENCE, end_of
from tplaunch.coordinator.gguf.header import read_gguf

SHORT = ("--devices", "numpy", "-p", "Once", "-n", "3", "--temperature", "0")
ENDLESS = ("--devices", "numpy,numpy", "-p", "Once", "--ignore-eos", "--context", "100000")
TEXT = " upon a time\n"


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(model, tmp_path / "copy.gguf"))


def shell(
    tplaunch: CommandLine, redirections: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Runs the command line with redirections as a shell writes them."""
    program = tplaunch.program
    tplaunch.program = ["bash", "-c", f'exec "$0" "$@" {redirections}', *program]
    try:
        return tplaunch(*arguments)
    finally:
        tplaunch.program = program


@pytest.mark.parametrize(
    ("redirections", "code", "stdout", "said"),
    [
        ("<&- >&-", 0, "", "NumPy"),
        ("2>&-", 0, TEXT, ""),
        ("2> /dev/full", 0, TEXT, ""),
        ("2> >(exec true)", 0, TEXT, ""),
        ("> /dev/full", 1, "", "tplaunch: standard output can't be written: No space left on device\n"),
    ],
)
def test_streams(
    tplaunch: CommandLine, model: Path, redirections: str, code: int, stdout: str, said: str
) -> None:
    result = shell(tplaunch, redirections, *SHORT, model)
    assert (result.returncode, result.stdout) == (code, stdout), result.stderr
    assert said in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["devices"],
        ["models", "--json"],
        ["plan", "--devices", "numpy", "--shape", "tiny"],
        ["--help"],
        ["run", "--help"],
        ["--version"],
    ],
)
def test_a_full_disk_is_a_sentence_in_every_command(tplaunch: CommandLine, command: list[str]) -> None:
    result = shell(tplaunch, "> /dev/full", *command)
    assert result.returncode == 1
    assert result.stderr.endswith("tplaunch: standard output can't be written: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["logits", "--devices", "numpy", "--tokens", "1,2"], "--out"),
        (["run", *SHORT, "--json"], "--trace"),
        (["bench", "--devices", "numpy", "--prefill", "2", "--decode", "1", "--repeat", "1"], "--trace"),
        (["bench", "--shape", "tiny", "--type", "f32"], "--write-gguf"),
    ],
)
def test_a_full_disk_under_a_file_fails_the_run(
    tplaunch: CommandLine, model: Path, command: list[str], option: str
) -> None:
    models = [] if "--shape" in command else [model]
    result = tplaunch(*command, *models, option, "/dev/full")
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "NumPy" not in line]
    reason = "No space left on device; free some space, or name another folder"
    assert line == f"tplaunch: {option} /dev/full can't be written: {reason}"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [([], 1, "use --collective zmq-ring; its log: "), (["--collective", "zmq-ring"], 0, "")],
)
def test_without_proc(tplaunch: CommandLine, model: Path, options: list[str], code: int, said: str) -> None:
    """As in some sandboxes: shared memory is found there, the ring's sockets have a path."""
    hide = ["unshare", "-rm", "bash", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*hide, "true"], check=False).returncode:
        pytest.skip("/proc can't be hidden here")
    tplaunch.program = [*hide, *tplaunch.program]
    result = tplaunch("--devices", "numpy,numpy", *SHORT[2:], *options, model)
    assert (result.returncode, result.stdout) == (code, "" if code else TEXT), result.stderr
    assert said in result.stderr


def test_a_closed_stdin_without_a_prompt(tplaunch: CommandLine, model: Path) -> None:
    result = shell(tplaunch, "<&-", "--devices", "numpy", "-n", "2", model)
    assert result.returncode == 0 and result.stdout, result.stderr


def test_a_model_by_its_descriptor_and_one_by_another_name(
    tplaunch: CommandLine, model: Path, tmp_path: Path
) -> None:
    result = shell(tplaunch, f"< {model}", *SHORT, "/dev/stdin")
    assert (result.returncode, result.stdout) == (0, TEXT), result.stderr
    name = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    shutil.copy(model, name)
    folder = tplaunch.folder / os.fsdecode(b"t\xe9")
    folder.mkdir()
    environment = {"TMPDIR": str(folder), "PYTHONIOENCODING": "ascii"}
    result = tplaunch(*SHORT, name, env=environment)
    assert (result.returncode, result.stdout) == (0, TEXT), result.stderr
    name.write_bytes(b"GGUF")
    result = tplaunch(*SHORT, name, env=environment)
    assert result.returncode == 2 and "caf\\udce9.gguf is not a GGUF file" in result.stderr


def test_a_model_that_is_the_prompt_too(tplaunch: CommandLine, model: Path) -> None:
    result = shell(tplaunch, f"< {model}", "--devices", "numpy", "/dev/stdin")
    assert result.returncode == 2
    assert result.stderr == "tplaunch: standard input is the model file; give the prompt with -p\n"


def test_a_package_of_the_same_name_elsewhere(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    """On PYTHONPATH and in the current folder, for the workers: they use what the launcher does."""
    for name in ("tplaunch", "worker", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is another package')")
    scripts = Path(sys.executable).parent
    tplaunch.program = ["env", f"--chdir={tmp_path}", str(scripts / "tplaunch")]
    assert tplaunch(*SHORT, model, check=True).stdout == TEXT
    tplaunch.program = [sys.executable, "-I", "-m", "tplaunch"]
    assert tplaunch(*SHORT, model, env={"PYTHONPATH": str(tmp_path)}, check=True).stdout == TEXT


def await_text(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.read(20), process.communicate()[1]


def test_a_model_that_is_truncated_under_a_run(tplaunch: CommandLine, copy: Path) -> None:
    process = tplaunch.start(*ENDLESS, copy)
    await_text(process)
    size = copy.stat().st_size
    os.truncate(copy, 4096)
    stderr = end_of(process)
    assert process.returncode == 1
    (line,) = (line for line in complaints(stderr) if "NumPy" not in line)
    assert "SIGBUS" in line and f": {copy} changed from {size} to 4096 bytes while it was in use" in line
    assert Path(line.rsplit("its log: ", 1)[1]).is_file()


def test_a_model_that_is_overwritten_under_a_run(tplaunch: CommandLine, copy: Path) -> None:
    embeddings = read_gguf(copy).tensors["token_embd.weight"]
    process = tplaunch.start(*ENDLESS, copy)
    await_text(process)
    with copy.open("r+b") as file:
        file.seek(embeddings.offset)
        file.write(np.full(embeddings.nbytes // 4, np.nan, np.float32).tobytes())
    stderr = end_of(process)
    assert process.returncode == 1
    (line,) = (line for line in complaints(stderr) if "NumPy" not in line)
    assert "NaN" in line and line.endswith(
        f": {copy} was written to while it was in use; run it again when the file is whole"
    )


def test_listing_devices_ends_with_the_launcher(tplaunch: CommandLine, tmp_path: Path) -> None:
    """A driver that hangs is a folder of manifests that is a pipe: the loader waits for its end."""
    os.mkfifo(tmp_path / "driver.json")
    process = tplaunch.start(
        "devices",
        env={
            "VK_DRIVER_FILES": str(tmp_path / "driver.json"),
            "VK_ICD_FILENAMES": str(tmp_path / "driver.json"),
        },
    )
    with (tmp_path / "driver.json").open("wb"):  # the loader has opened it, in the child
        (child,) = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        end_of(process)
        child.wait(timeout=int(PATIENCE))
