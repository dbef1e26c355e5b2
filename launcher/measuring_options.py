"""The commands that measure and check devices, on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.options import RankOptions
from tplaunch.launcher.declared import add_declared
from tplaunch.launcher.model_options import add_model_options

if TYPE_CHECKING:
    from tplaunch.launcher.options import Parser


def add_measuring_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands that measure and check devices."""
    _add_tune(
        commands.add_parser(
            "tune",
            help="measure again which kernels suit each device",
            description="Measures which variant of each kernel is fastest on each device, whether to submit"
            " the parts of a step ahead, and of more than two ranks together how they add up best. A run does"
            " so by itself for what was not measured before; this does it anew, as after a change of clocks.",
        )
    )
    _add_check(
        commands.add_parser(
            "check",
            help="run every kernel on each device against NumPy, and measure the device",
            description="Runs every kernel that there is, with every type of weights and of the KV cache, on"
            " each device against NumPy, and shows which are right; a run does so by itself for the kernels"
            " that it needs, at a device's first start with a driver. Then it measures what the device is"
            " good for: bandwidths, waits, products, exchanges, a prompt and two ranks; docs/gpus.md explains"
            " each line. Exit code 1 where something is wrong.",
        )
    )
    _add_bench_collectives(
        commands.add_parser("bench-collectives", help="measure the ranks' all-reduces; needs no device")
    )


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command that measures models."""
    model = add_shape(parser, "model (a file, or a shape with made-up weights)")
    model.add_argument(
        "--write-gguf", type=Path, metavar="FILE", help="write the shape as a GGUF file, and measure nothing"
    )
    tests = parser.add_argument_group("tests (lists of numbers; none for an empty one)")
    tests.add_argument("--prefill", default="128,512", metavar="LIST",
                       help="prompts of so many tokens (default: %(default)s)")  # fmt: skip
    tests.add_argument("--cached", default="none", metavar="LIST",
                       help="prompts of so many tokens that came before (default: %(default)s)")  # fmt: skip
    tests.add_argument("--decode", default="64", metavar="LIST",
                       help="so many tokens one by one (default: %(default)s)")  # fmt: skip
    tests.add_argument("--at-context", default="0,2048", metavar="LIST",
                       help="positions before those tokens (default: %(default)s)")  # fmt: skip
    tests.add_argument("--batch", default="1", metavar="LIST",
                       help="so many texts together when tokens are made (default: %(default)s)")  # fmt: skip
    tests.add_argument("--repeat", type=int, default=5, metavar="N",
                       help="times, behind one that does not count (default: %(default)s)")  # fmt: skip
    tests.add_argument(
        "--ranks",
        metavar="LIST",
        help="once for every number of ranks, cycling through the devices, with the speed-up over one rank",
    )
    output = parser.add_argument_group("output")
    add_ledger(output)
    _add_forms(output)
    add_model_options(parser)


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_shape(parser, "model (a file or a shape; without one: a small shape of every weight type)")
    add_model_options(parser)


def _add_check(parser: argparse.ArgumentParser) -> None:
    devices = "as `tplaunch devices` lists them, by index or name (default: %(default)s)"
    parser.add_argument("--devices", default="all", metavar="LIST", help=devices)
    parser.add_argument("--json", action="store_true", help="as JSON, with every kernel")
    parser.add_argument("--quick", action="store_true", help="kernels only, without speeds")
    parser.add_argument("--speeds", action="store_true", help="speeds only, without the kernels")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every kernel, and the log")
    add_declared(parser, RankOptions, ("validate", "without"))


def _add_bench_collectives(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", default="2,4", metavar="LIST", help="how many (default: %(default)s)")
    parser.add_argument("--sizes", default="16K,64K,1M,16M", metavar="LIST",
                        help="bytes of float32 to sum (default: %(default)s)")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                        help="how long a rank may take for one sum (default: %(default)s)")  # fmt: skip
    _add_forms(parser.add_argument_group("output"))


def add_shape(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Adds the options of a well-known shape in a group of their own, which is returned."""
    model = parser.add_argument_group(title)
    model.add_argument("--shape", metavar="NAME", help=f"one of {', '.join(SHAPES)}")
    model.add_argument("--type", metavar="TYPE", help="of a shape's weights, such as q4_0 (default: q8_0)")
    return model


def _add_forms(output: argparse._ArgumentGroup) -> None:
    forms = output.add_mutually_exclusive_group()
    for name, text in (("json", "as JSON"), ("csv", "as CSV")):
        forms.add_argument(
            f"--{name}", dest="output", action="store_const", const=name, default="table", help=text
        )


def add_ledger(output: argparse._ArgumentGroup) -> None:
    """Adds the options that show where time went."""
    output.add_argument(
        "--ledger",
        action="store_true",
        help="where a step's time went, by rank (costs a little)",
    )
    output.add_argument(
        "--trace", type=Path, metavar="FILE", help="every part of every step, to open in ui.perfetto.dev"
    )
