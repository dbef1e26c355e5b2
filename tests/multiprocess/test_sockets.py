"""Where the processes of a run listen: nowhere that another user can reach."""

import contextlib
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_failures import ENDLESS, await_text, worker_processes
from tests.multiprocess.test_unprivileged import become_nobody, python_for_anyone
from tests.no_processes import NoProcesses
from tests.patience import end_of
from tplaunch.collectives import ZmqRing
from tplaunch.coordinator.serving.control import WorkerChannel

CONNECTS = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        print("refused")
"""


@pytest.mark.parametrize("collective", ["shared-memory", "zmq-ring"])
def test_a_run_listens_in_its_private_folder_alone(
    tplaunch: CommandLine, shared_dir: Path, collective: str
) -> None:
    model = shared_dir / "models/stories260K-f32.gguf"
    process = tplaunch.start("--devices", "numpy,numpy", "--collective", collective, model, *ENDLESS)
    await_text(process)
    listening = set(unix_sockets())
    for running in (psutil.Process(process.pid), *worker_processes(process).values()):
        assert not tcp_sockets(running.pid)
    (folder,) = {path.parent for path in listening if path.is_relative_to(tplaunch.folder)}
    rings = {"link-0", "link-1"} if collective == "zmq-ring" else set()
    assert {path.name for path in folder.iterdir()} == {"control", *rings}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    process.terminate()
    end_of(process)
    assert not folder.exists()


def test_another_user_can_not_connect() -> None:
    prefix = become_nobody()
    command = [*prefix, python_for_anyone(prefix), "-c", CONNECTS]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # whose parent anyone may enter
        ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=bytes(16), folder=Path(folder))
        channel = WorkerChannel(f"ipc://{folder}/control", 2, NoProcesses())
        paths = [f"{folder}/control", f"{folder}/link-0"]
        result = subprocess.run([*command, *paths], capture_output=True, text=True, check=True)
        assert result.stdout.split() == ["refused"] * 2
        subprocess.run([sys.executable, "-c", CONNECTS, *paths], check=True)  # this one can
        ring.close()
        channel.close()


def unix_sockets() -> list[Path]:
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    return [Path(words[7]) for line in lines if len(words := line.split(maxsplit=7)) == 8]


def tcp_sockets(process_id: int) -> set[str]:
    """The inodes of a process's TCP sockets."""
    owned = set()
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed just now
            link = str(descriptor.readlink())
            owned |= {link[8:-1]} if link.startswith("socket:[") else set()
    tables = [Path(f"/proc/{process_id}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    return owned & {line.split()[9] for table in tables for line in table.splitlines()[1:]}
