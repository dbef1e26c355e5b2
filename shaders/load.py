"""Hands out compiled kernels by name. Knows no Vulkan."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tplaunch.shaders import spirv

SPV_FOLDER = Path(__file__).resolve().parent / "spv"


def kernel_names() -> list[str]:
    """All kernels, sorted."""
    return sorted(path.stem for path in SPV_FOLDER.glob("*.spv"))


def load_kernel(name: str) -> bytes:
    """The SPIR-V module of one kernel. Raises KeyError for an unknown name, ValueError for a broken file."""
    path = SPV_FOLDER / f"{name}.spv"
    if not path.exists():
        raise KeyError(f"no kernel is called {name!r}")
    module = path.read_bytes()
    try:
        spirv.as_words(module)
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}") from None
    return module


def kernels_hash() -> str:
    """Hashes all kernels together: another hash means another set of kernels."""
    digest = hashlib.sha256()
    for name in kernel_names():
        digest.update(name.encode() + b"\0" + hashlib.sha256(load_kernel(name)).digest())
    return digest.hexdigest()
