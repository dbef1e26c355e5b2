"""Records what passes a host's cable, for an attacker who was there to say it again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.namespaces import command_in, search_path
from tests.hosts.network import Host, Network

SCRIPT = Path(__file__).with_name("record.py")


@dataclass(frozen=True)
class Recording:
    frames: Path  # files of records, as record.py writes them
    streams: Path


@contextmanager
def recorded(network: Network, host: Host, folder: Path) -> Iterator[Recording]:
    """Records within it; the files are there afterwards."""
    recording = Recording(folder / "frames", folder / "streams")
    command = [sys.executable, "-I", str(SCRIPT), host.port, str(recording.frames), str(recording.streams)]
    recorder = subprocess.Popen(
        command_in(network.switch, "switch", command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PATH": search_path()},
        start_new_session=True,
    )
    try:
        assert recorder.stdout is not None and recorder.stdout.readline() == b"recording\n"
        yield recording
    finally:
        recorder.communicate(timeout=60)
    assert recorder.returncode == 0
