"""Kernels as files: a digest of what follows, the parameters' names, and object code."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from tplaunch.worker.folders import open_regular, replace_file

DIGEST_BYTES = 32
MAX_BYTES = 4 << 20  # of a kernel's code


def read_kernel(path: Path) -> tuple[list[str], bytes] | None:
    """Returns a kernel's parameters and code; None where there is none that is whole."""
    with suppress(OSError), open_regular(path) as file:
        digest, content = file.read(DIGEST_BYTES), file.read(MAX_BYTES)
        if hashlib.sha256(content).digest() == digest:
            parameters, _, code = content.partition(b"\n")
            return json.loads(parameters), code
    return None


def write_kernel(path: Path, parameters: list[str], code: bytes) -> None:
    """Raises OSError."""
    content = json.dumps(parameters).encode() + b"\n" + code
    replace_file(path, hashlib.sha256(content).digest() + content)
