"""Reads what Mesa's RADV says of the machine code that it compiled (RADV_DEBUG=shaderstats), and compares it
with what was seen before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MARK = "== "  # before the name of each kernel, on a line of its own
STATISTIC = re.compile(r"^([A-Z][\w .-]+): (\d+)$", re.MULTILINE)
WORSE = 1.03  # times the inverse throughput of before: less is no more than another order of instructions
# The fewest waves of each kind of kernel, by the beginning of its name, of which the longest counts:
# on vega10, whose units hold 10 at most; on navi10, which has no integer dots; on what came later. A table
# that is written anew can't go below them.
FLOORS = {
    "": (4, 16, 14),  # of rows: norms, ropes, sums
    "attention_": (1, 3, 3),
    "attention_combine": (4, 16, 14),
    "attention_teams_": (1, 4, 4),
    "attention_matrices_": (1, 8, 8),
    "attention_matrices_f16_256": (1, 6, 6),
    "attention_matrices_q8_0_256": (1, 7, 7),
    "experts_": (1, 4, 4),
    "grouped_": (1, 8, 8),
    "head_products_": (1, 8, 8),
    "matrices_": (1, 8, 8),
    "matvec": (1, 4, 8),
    "tiled_": (1, 6, 8),
}
COLUMNS = {"vega10": 0, "navi10": 1, "navi21": 2, "navi31": 2, "gfx1201": 2}  # of FLOORS, by family

Table = dict[str, dict[str, "Seen"]]  # by kernel and family


@dataclass(frozen=True)
class Statistics:
    """The driver's numbers for one kernel.

    Throughput and latency are its own guess: an outermost loop has eight iterations, the ones in it four.
    """

    vector_registers: int
    scalar_registers: int
    spills: int  # registers of either kind that went to memory
    scratch: int  # bytes of memory that an invocation has for itself
    shared: int  # bytes of memory of a workgroup
    waves: int  # subgroups that a SIMD unit holds at once
    latency: int  # cycles
    inverse_throughput: int  # cycles of a SIMD unit for 64 invocations
    code: int  # bytes


@dataclass(frozen=True)
class Seen:
    """The waves and the inverse throughput that a kernel must stay at."""

    waves: int
    inverse_throughput: int


def statistics_of(said: str) -> Statistics:
    """Reads one kernel's statistics. Raises ValueError where one is missing."""
    found = {name: int(number) for name, number in STATISTIC.findall(said)}
    try:
        return Statistics(
            vector_registers=found["VGPRs"],
            scalar_registers=found["SGPRs"],
            spills=found["Spilled SGPRs"] + found["Spilled VGPRs"],
            scratch=found["Scratch size"],
            shared=found["LDS size"],
            waves=found["Subgroups per SIMD"],
            latency=found["Latency"],
            inverse_throughput=found["Inverse Throughput"],
            code=found["Code size"],
        )
    except KeyError as error:
        raise ValueError(f"the driver gave no number for {error.args[0]!r}; RADV of Mesa 25 does") from None


def read(said: str) -> dict[str, Statistics]:
    """Reads what stands behind each kernel's name. Raises ValueError where numbers of one are missing."""
    found = {}
    for part in said.split(MARK)[1:]:
        name, _, numbers = part.partition("\n")
        if not name:
            break
        try:
            found[name] = statistics_of(numbers)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def floor(name: str, family: str) -> int:
    """Returns the waves that a kernel must hold, whatever was seen; 0 on a family that has no floors."""
    kind = max((beginning for beginning in FLOORS if name.startswith(beginning)), key=len)
    return FLOORS[kind][COLUMNS[family]] if family in COLUMNS else 0


def objections(family: str, now: Mapping[str, Statistics], seen: Table, same_driver: bool) -> list[str]:
    """A sentence for each kernel that spills, holds fewer waves than it did or its kind must, or is slower.

    Estimates of another version of the driver's are not compared.
    """
    found = []
    for name, numbers in now.items():
        before = seen.get(name, {}).get(family)
        if numbers.spills or numbers.scratch:
            found.append(f"{name} spills {numbers.spills} registers on {family}")
        if numbers.waves < floor(name, family):
            found.append(
                f"{name} holds {numbers.waves} waves on {family}; its kind must hold {floor(name, family)}"
            )
        if before is None:
            found.append(f"{name} is not in the table for {family}")
            continue
        if numbers.waves < before.waves:
            found.append(f"{name} holds {numbers.waves} waves on {family}, which were {before.waves}")
        if same_driver and numbers.inverse_throughput > WORSE * before.inverse_throughput:
            found.append(
                f"{name} has an inverse throughput of {numbers.inverse_throughput} on {family},"
                f" which was {before.inverse_throughput}"
            )
    return found


def write_table(driver: str, families: Mapping[str, Mapping[str, Statistics]]) -> str:
    """The table as text: a line for each kernel, so that changes of different kernels merge."""
    names = sorted({name for found in families.values() for name in found})
    lines = [f"# {driver}", "\t".join(("kernel", *families))]
    for name in names:
        cells = [
            f"{found[name].waves}/{found[name].inverse_throughput}" if name in found else "-"
            for found in families.values()
        ]
        lines.append("\t".join((name, *cells)))
    return "\n".join(lines) + "\n"


def read_table(text: str) -> tuple[str, Table]:
    """Reads the driver and the table that write_table wrote."""
    first, heading, *lines = text.splitlines()
    families = heading.split("\t")[1:]
    table: Table = {}
    for line in lines:
        name, *cells = line.split("\t")
        table[name] = {
            family: Seen(*map(int, cell.split("/")))
            for family, cell in zip(families, cells, strict=True)
            if cell != "-"
        }
    return first.removeprefix("# "), table
