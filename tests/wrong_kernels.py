"""Kernels that compute wrong numbers, as a driver that makes a mistake would: sums are products."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.drivers import REPOSITORY
from tplaunch.shaders.load import load_kernel
from tplaunch.shaders.spirv import HEADER_WORDS, Instruction, assembled, instructions

FADD, FMUL = 129, 133  # OpFAdd and OpFMul, which have the same operands; twice a minus would be right again
EXTENDED, FMA, MIX = 12, 50, 46  # OpExtInst; of its functions these two take three numbers each


def wrong_kernel(name: str) -> bytes:
    """The kernel's module, but wrong. It reads and writes what the right one does."""
    module = load_kernel(name)
    wrong = assembled(module, [_wrong(one) for one in instructions(module)])
    assert wrong != module and len(wrong) == len(module) > HEADER_WORDS * 4, name
    return wrong


def _wrong(one: Instruction) -> Instruction:
    if one.opcode == EXTENDED and one.operands[3] == FMA:
        return Instruction(EXTENDED, (*one.operands[:3], MIX, *one.operands[4:]))
    return Instruction(FMUL if one.opcode == FADD else one.opcode, one.operands)


def package_with(folder: Path, kernels: dict[str, bytes]) -> str:
    """A copy of the package with these modules instead; what `python -c` starts it by."""
    copy = folder / "tplaunch"
    if not copy.exists():
        shutil.copytree(
            REPOSITORY / "tplaunch", copy, ignore=shutil.ignore_patterns("__pycache__", "*.slang")
        )
    for name, module in kernels.items():
        (copy / f"shaders/spv/{name}.spv").write_bytes(module)
    return (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import tplaunch; "
        f"assert tplaunch.__file__.startswith({str(folder)!r}); "
        "from tplaunch.launcher.entry import main; sys.exit(main())"
    )
