"""Functions that each processor has other instructions for, as text of LLVM that is linked to kernels.

Kernels call these functions by name. So they're one text for all processors, and each computes the same bits.
"""

from __future__ import annotations

from tplaunch.worker.cpu.dot_instructions import dot_instructions
from tplaunch.worker.cpu.options import PAUSE
from tplaunch.worker.cpu.target import Target

LOOKED_UP, SCALED_NIBBLES, NUM_VECTORS = (
    "tplaunch_looked_up",
    "tplaunch_scaled_nibbles",
    "tplaunch_num_vectors",
)
# By the first part of the processor's name: how a thread says that it only waits (LLVM's function and its
# arguments), and the instruction that looks 16 bytes up by 16 indexes.
PAUSES = {"x86_64": ("llvm.x86.sse2.pause", "", ""), "aarch64": ("llvm.aarch64.hint", "i32", "i32 1")}
TABLE_LOOK_UPS = {"x86_64": "llvm.x86.ssse3.pshuf.b.128", "aarch64": "llvm.aarch64.neon.tbl1.v16i8"}
INTEGERS = ", ".join(f"float {float(value)}" for value in range(16))
FIFTEENS = ", ".join(["i32 15"] * 16)
SCALING = """
  %single = insertelement <16 x float> undef, float %zero, i32 0
  %zeros = shufflevector <16 x float> %single, <16 x float> undef, <16 x i32> zeroinitializer
  %differences = fsub <16 x float> %floats, %zeros
  %products = fmul <16 x float> %differences, %scale
  %sums = fadd <16 x float> %products, %minimum
"""


def instructions(target: Target) -> str:
    """Returns LLVM's text of all functions for a processor."""
    family = target.triple.partition("-")[0]
    pause, pause_parameters, pause_arguments = PAUSES[family]
    look_up = TABLE_LOOK_UPS[family]
    return f"""
declare void @{pause}({pause_parameters})
define void @{PAUSE}() alwaysinline {{
  call void @{pause}({pause_arguments})
  ret void
}}
declare <16 x i8> @{look_up}(<16 x i8>, <16 x i8>)
define <16 x i8> @{LOOKED_UP}(<16 x i8> %table, <16 x i8> %indexes) alwaysinline {{
  %found = call <16 x i8> @{look_up}(<16 x i8> %table, <16 x i8> %indexes)
  ret <16 x i8> %found
}}
define i64 @{NUM_VECTORS}() alwaysinline {{
  ret i64 {32 if target.has_long_vectors else 8}
}}
{_scaled_nibbles(target)}
{dot_instructions(target)}
"""


def _scaled_nibbles(target: Target) -> str:
    """Returns (four bits - zero) * scale + minimum of 16 lanes, of which the upper bits mean nothing.

    All 16 results that there can be are one vector where one instruction looks them up.
    """
    head = f"""define <16 x float> @{SCALED_NIBBLES}(
        <16 x i32> %nibbles, float %zero, <16 x float> %scale, <16 x float> %minimum) alwaysinline {{"""
    if target.has_long_vectors:
        name = "llvm.x86.avx512.permvar.sf.512"
        return f"""
declare <16 x float> @{name}(<16 x float>, <16 x i32>)
{head}
  %floats = fadd <16 x float> <{INTEGERS}>, zeroinitializer
  {SCALING}
  %found = call <16 x float> @{name}(<16 x float> %sums, <16 x i32> %nibbles)
  ret <16 x float> %found
}}"""
    return f"""{head}
  %lower = and <16 x i32> %nibbles, <{FIFTEENS}>
  %floats = sitofp <16 x i32> %lower to <16 x float>
  {SCALING}
  ret <16 x float> %sums
}}"""
