"""Says what AMD's compiler makes of the kernels, without a card: `python -m tplaunch.shaders.stats`.

Mesa's RADV compiles for families of cards that are not there, and prints registers, spills, waves and its own
guess of latency and throughput. Only developers need this. A process of the worker package compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tplaunch.shaders.analysis import statistics
from tplaunch.shaders.analysis.statistics import Statistics
from tplaunch.shaders.load import kernel_names

FAMILIES = ("vega10", "navi10", "navi21", "navi31", "gfx1201")  # from GCN 5 to RDNA 4
COMPILER = "tplaunch.worker.vulkan.compiling"
SECONDS = 300  # for what takes about ten
HEADING = "kernel                    vgprs sgprs spill shared waves latency inv.thr.  code"
ROW = "{:<25} {:>5} {:>5} {:>5} {:>6} {:>5} {:>7} {:>8} {:>5}"


class StatsError(RuntimeError):
    """The driver or its compiler said no; the message says how, and what to do."""


@dataclass(frozen=True)
class Compiled:
    """The driver's numbers for all kernels on one family's card."""

    family: str
    driver: str
    kernels: dict[str, Statistics]


def compile_family(
    family: str, names: Sequence[str] = (), options: Sequence[str] = (), driver: str = ""
) -> Compiled:
    """Compiles these kernels, or all that such a card is given. Raises StatsError.

    `driver` is the path of RADV's manifest; else the Vulkan loader's settings decide.
    """
    env = {**os.environ, "RADV_FORCE_FAMILY": family, "RADV_DEBUG": "shaderstats,nocache"}
    if driver:
        env |= dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), str(Path(driver).resolve()))
    command = [sys.executable, "-m", COMPILER, *options, *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise StatsError(_why(family, done))
    try:
        kernels = statistics.read(done.stderr)
    except ValueError as error:
        raise StatsError(f"{family}: {error}") from None
    return Compiled(family, json.loads(done.stdout)["driver"], kernels)


def _why(family: str, done: subprocess.CompletedProcess[str]) -> str:
    """A sentence on a compiling process that failed."""
    before, *compiled = done.stderr.split(statistics.MARK)
    doing = f"compiling {compiled[-1].partition(chr(10))[0]}" if compiled else "opening the device"
    said = (compiled[-1] if compiled else before).strip().splitlines() or [""]
    status = (
        f"by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"with {done.returncode}"
    )
    return f"{doing} for {family} ended {status}: {said[-1]}"


def compile_families(
    families: Sequence[str], names: Sequence[str] = (), options: Sequence[str] = (), driver: str = ""
) -> list[Compiled]:
    """Compiles for several families, on as many cores as this process may use. Raises StatsError."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda family: compile_family(family, names, options, driver), families))


def table(found: Compiled) -> str:
    """A table of at most 80 columns."""
    lines = [f"{found.family}, {found.driver}", HEADING]
    for name, said in found.kernels.items():
        lines.append(
            ROW.format(
                name[-25:],
                *(said.vector_registers, said.scalar_registers, said.spills, said.shared),
                *(said.waves, said.latency, said.inverse_throughput, said.code),
            )
        )
    return "\n".join(lines)


def as_json(found: Sequence[Compiled]) -> str:
    """The same numbers for programs: by family, then by kernel."""
    families: Mapping[str, object] = {
        one.family: {
            "driver": one.driver,
            "kernels": {name: asdict(said) for name, said in one.kernels.items()},
        }
        for one in found
    }
    return json.dumps({"families": families}, indent=1)


def differences(found: Sequence[Compiled], path: Path) -> list[str]:
    """Returns what is worse than in the table of this file."""
    driver, seen = statistics.read_table(path.read_text())
    return [
        objection
        for one in found
        for objection in statistics.objections(one.family, one.kernels, seen, one.driver == driver)
    ]


def main() -> int:
    arguments = _parser().parse_args()
    unknown = sorted(set(arguments.kernels) - set(kernel_names()))
    if unknown:
        print(f"no kernel is called {unknown[0]}; shaders/spv/ holds all", file=sys.stderr)
        return 2
    options = [f"--module={path.resolve()}" for path in arguments.module]
    options += [f"--constant={text}" for text in arguments.constant]
    options += [f"--subgroup-size={arguments.subgroup_size}"]
    families = arguments.family or FAMILIES
    try:
        found = compile_families(families, arguments.kernels, options, arguments.driver)
    except StatsError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.write:
        text = statistics.write_table(found[0].driver, {one.family: one.kernels for one in found})
        arguments.write.write_text(text)
        return 0
    if arguments.against:
        worse = differences(found, arguments.against)
        print("\n".join(worse or ["nothing is worse"]))
        return 1 if worse else 0
    print(as_json(found) if arguments.json else "\n\n".join(map(table, found)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tplaunch.shaders.stats", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="all that such a card is given, if none")
    parser.add_argument(
        "--family",
        action="append",
        help=f"as RADV calls it; several by repeating; else {', '.join(FAMILIES)}",
    )
    parser.add_argument(
        "--driver", default="", help="the manifest of RADV, where the loader does not find it"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write waves and throughputs as a table")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with such a table")
    parser.add_argument(
        "--module", action="append", default=[], type=Path, metavar="FILE", help="SPIR-V of another program"
    )
    parser.add_argument(
        "--constant", action="append", default=[], metavar="ID=VALUE", help="a constant of those modules"
    )
    parser.add_argument("--subgroup-size", type=int, default=0, help="of those modules' subgroups")
    return parser


if __name__ == "__main__":
    sys.exit(main())
