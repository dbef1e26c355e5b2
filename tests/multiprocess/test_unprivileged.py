"""A run as a user who owns nothing and has no home directory."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.conftest import manifest_of
from tests.drivers import REPOSITORY, driver_variables, find_lavapipe

NOBODY = 65534


# setpriv itself still has root's capabilities when it starts the program: what counts is a second start.
STARTS_ITSELF = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"


def become_nobody() -> list[str]:
    """The start of a command that runs as another user."""
    if os.getuid() != 0:
        pytest.skip("not root: the whole suite runs as an unprivileged user")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux) is not installed")
    return [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def python_for_anyone(prefix: list[str]) -> str:
    """A Python of this version that another user may run: this one may lie in root's home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [*prefix, candidate, "-c", STARTS_ITSELF]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return candidate
    pytest.skip(f"no {version} that another user may run")


def check_readable(prefix: list[str], *paths: Path) -> None:
    """Skips where another user may not read these, as below root's home."""
    for path in paths:
        if subprocess.run([*prefix, "test", "-r", path], check=False).returncode != 0:
            pytest.skip(f"another user may not read {path}")


@pytest.fixture
def nobody(shared_dir: Path) -> Iterator[CommandLine]:
    """The command line as that user."""
    prefix = become_nobody()
    packages = sysconfig.get_path("purelib")
    check_readable(prefix, REPOSITORY / "tplaunch", Path(packages), shared_dir / "models")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
        **driver_variables(manifest_of(find_lavapipe())),
    }
    command_line = CommandLine(
        environment, Path("/nonexistent"), [*prefix, python_for_anyone(prefix), "-m", "tplaunch"]
    )
    for path in (command_line.folder, *command_line.folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    yield command_line
    command_line.close()


@pytest.mark.parametrize("collective", ["shared-memory", "zmq-ring"])
def test_an_unprivileged_user(nobody: CommandLine, shared_dir: Path, collective: str) -> None:
    story = json.loads((shared_dir / "models/stories260K-greedy.json").read_text())[0]
    model = shared_dir / "models/stories260K-f32.gguf"
    options = ("--devices", "0,0", "--collective", collective, model, "-p", story["prompt"])
    result = nobody(*options, "-n", "40", "--temperature", "0", "--json", check=True)
    assert json.loads(result.stdout)["tokens"] == story["tokens"][:40]


def test_without_any_folder_to_write_logs_to(nobody: CommandLine, shared_dir: Path) -> None:
    """No state directory and no home: logs go to the temporary folder."""
    model = shared_dir / "models/stories260K-f32.gguf"
    options = ("--devices", "numpy,numpy", model, "-p", "Once", "-n", "3")
    nobody(*options, env={"XDG_STATE_HOME": ""}, check=True)
