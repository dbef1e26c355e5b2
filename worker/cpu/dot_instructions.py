"""Functions that add up products of bytes, four to a lane, by the instructions that a processor has for it.

All are exact. They multiply activations, of which none is -128, by weights of two kinds: small ones from 0 to
127, and signed ones, which are any bytes. An instruction may know no weights with signs. Then these are held
with SIGNED_ZERO added to them, and sums begin with what that is too much.
"""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.worker.cpu.target import Target

SMALL_DOTS, SIGNED_DOTS, HELD_SIGNED, SIGNED_ZERO = (
    "tplaunch_small_dots",
    "tplaunch_signed_dots",
    "tplaunch_held_signed",
    "tplaunch_signed_zero",
)
LANES = 16
OFFSET_BYTES = ", ".join(["i32 -2139062144"] * LANES)  # 128 in each byte
Part = Callable[[int], str]  # makes of s0, w0 and x0, if that is the part's number, r0


def dot_instructions(target: Target) -> str:
    """Returns LLVM's text of all functions for a processor."""
    features = target.features.split(",")
    if "+avx512vnni" in features and target.has_long_vectors:
        return _of_unsigned_weights(16)
    if "+avxvnni" in features:
        return _of_unsigned_weights(8)
    if target.triple.startswith("x86_64"):
        return _of_avx2()
    return _of_dotprod() if "+dotprod" in features else _of_any()


def _of_unsigned_weights(lanes: int) -> str:
    """Makes them of an instruction that takes weights without signs, and activations with signs."""
    held, name = f"<{lanes} x i32>", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"

    def part(index: int) -> str:
        return f"  %r{index} = call {held} @{name}({held} %s{index}, {held} %w{index}, {held} %x{index})\n"

    declared = f"declare {held} @{name}({held}, {held}, {held})\n"
    changed = f"  %held = xor <16 x i32> %weights, <{OFFSET_BYTES}>\n  ret <16 x i32> %held\n"
    return declared + _functions(lanes, part, part) + _held_signed(changed, 128)


def _of_avx2() -> str:
    """Pairs of products get 16 bits, which saturate: 2 x 128 x 127 do not, 2 x 255 x 127 would."""

    def pairs(index: int, weights: str, activations: str) -> str:
        return f"""
  %wb{index} = bitcast <8 x i32> {weights} to <32 x i8>
  %xb{index} = bitcast <8 x i32> {activations} to <32 x i8>
  %p{index} = call <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8> %wb{index}, <32 x i8> %xb{index})
  %f{index} = call <8 x i32> @llvm.x86.avx2.pmadd.wd(<16 x i16> %p{index}, <16 x i16> splat (i16 1))
  %r{index} = add <8 x i32> %s{index}, %f{index}
"""

    def small(index: int) -> str:
        return pairs(index, f"%w{index}", f"%x{index}")

    def signed(index: int) -> str:
        """Multiplies magnitudes of weights by activations with the signs of both."""
        return f"""
  %wo{index} = bitcast <8 x i32> %w{index} to <32 x i8>
  %xo{index} = bitcast <8 x i32> %x{index} to <32 x i8>
  %wm{index} = call <32 x i8> @llvm.abs.v32i8(<32 x i8> %wo{index}, i1 false)
  %xs{index} = call <32 x i8> @llvm.x86.avx2.psign.b(<32 x i8> %xo{index}, <32 x i8> %wo{index})
  %ww{index} = bitcast <32 x i8> %wm{index} to <8 x i32>
  %xw{index} = bitcast <32 x i8> %xs{index} to <8 x i32>
{pairs(index, f"%ww{index}", f"%xw{index}")}"""

    declared = """
declare <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8>, <32 x i8>)
declare <8 x i32> @llvm.x86.avx2.pmadd.wd(<16 x i16>, <16 x i16>)
declare <32 x i8> @llvm.x86.avx2.psign.b(<32 x i8>, <32 x i8>)
declare <32 x i8> @llvm.abs.v32i8(<32 x i8>, i1)
"""
    return declared + _functions(8, small, signed) + _held_signed()


def _of_dotprod() -> str:
    """Makes them of an instruction that takes signs of both."""
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"

    def part(index: int) -> str:
        return f"""
  %wb{index} = bitcast <4 x i32> %w{index} to <16 x i8>
  %xb{index} = bitcast <4 x i32> %x{index} to <16 x i8>
  %r{index} = call <4 x i32> @{name}(<4 x i32> %s{index}, <16 x i8> %wb{index}, <16 x i8> %xb{index})
"""

    declared = f"declare <4 x i32> @{name}(<4 x i32>, <16 x i8>, <16 x i8>)\n"
    return declared + _functions(4, part, part) + _held_signed()


def _of_any() -> str:
    """Makes them of products of 16 bits, which hold any of two bytes."""
    evens, odds = (", ".join(f"i32 {lane}" for lane in range(first, 64, 2)) for first in (0, 1))
    pair_evens, pair_odds = (", ".join(f"i32 {lane}" for lane in range(first, 32, 2)) for first in (0, 1))
    part = f"""
  %wb = bitcast <16 x i32> %w0 to <64 x i8>
  %xb = bitcast <16 x i32> %x0 to <64 x i8>
  %wl = sext <64 x i8> %wb to <64 x i16>
  %xl = sext <64 x i8> %xb to <64 x i16>
  %products = mul <64 x i16> %wl, %xl
  %evens = shufflevector <64 x i16> %products, <64 x i16> undef, <32 x i32> <{evens}>
  %odds = shufflevector <64 x i16> %products, <64 x i16> undef, <32 x i32> <{odds}>
  %le = sext <32 x i16> %evens to <32 x i32>
  %lo = sext <32 x i16> %odds to <32 x i32>
  %pairs = add <32 x i32> %le, %lo
  %pe = shufflevector <32 x i32> %pairs, <32 x i32> undef, <16 x i32> <{pair_evens}>
  %po = shufflevector <32 x i32> %pairs, <32 x i32> undef, <16 x i32> <{pair_odds}>
  %fours = add <16 x i32> %pe, %po
  %r0 = add <16 x i32> %s0, %fours
"""
    return _functions(LANES, lambda _: part, lambda _: part) + _held_signed()


def _held_signed(body: str = "  ret <16 x i32> %weights\n", zero: int = 0) -> str:
    return f"""
define <16 x i32> @{HELD_SIGNED}(<16 x i32> %weights) alwaysinline {{
{body}}}
define i32 @{SIGNED_ZERO}() alwaysinline {{
  ret i32 {zero}
}}
"""


def _functions(lanes: int, small: Part, signed: Part) -> str:
    """Makes both functions of what computes so many lanes of theirs."""
    return _function(SMALL_DOTS, lanes, small) + _function(SIGNED_DOTS, lanes, signed)


def _function(name: str, lanes: int, part: Part) -> str:
    lines = [
        f"define <16 x i32> @{name}(<16 x i32> %sums, <16 x i32> %weights, i32 %four) alwaysinline {{",
        "  %first = insertelement <16 x i32> undef, i32 %four, i32 0",
        "  %spread = shufflevector <16 x i32> %first, <16 x i32> undef, <16 x i32> zeroinitializer",
    ]
    count = LANES // lanes
    for index in range(count):
        numbers = range(index * lanes, (index + 1) * lanes)
        for short, whole in (("s", "%sums"), ("w", "%weights"), ("x", "%spread")):
            lines.append(f"  %{short}{index} = {_lanes(LANES, whole, 'undef', numbers)}")
        lines.append(part(index))
    found = [f"%r{index}" for index in range(count)]
    while len(found) > 1:  # two of them at a time are one
        joined = []
        for one, other in zip(found[::2], found[1::2], strict=True):
            joined.append(f"{one}j")
            lines.append(f"  {one}j = {_lanes(lanes, one, other, range(2 * lanes))}")
        found, lanes = joined, 2 * lanes
    return "\n".join([*lines, f"  ret <16 x i32> {found[0]}", "}", ""])


def _lanes(held: int, one: str, other: str, numbers: range) -> str:
    mask = ", ".join(f"i32 {number}" for number in numbers)
    return f"shufflevector <{held} x i32> {one}, <{held} x i32> {other}, <{len(numbers)} x i32> <{mask}>"
