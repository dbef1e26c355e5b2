"""The commands that evaluate a model by a file: their options, and what is made of these.

What they do is imported when one of them is called.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.model_options import add_model_options

if TYPE_CHECKING:
    from tplaunch.launcher.options import Parser

EVALUATIONS = ("perplexity",)
CHUNKS_TOGETHER = 8  # of a text whose perplexity is measured


def add_evaluation_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands to those of the parser."""
    _add_perplexity(
        commands.add_parser(
            "perplexity",
            help="measure how well a model foretells a text",
            description="Measures the perplexity of a text by llama.cpp's definition: chunks of the context"
            " (512 tokens, unless --context says otherwise), of which the second half is scored. With"
            " --kl-base or --compare also how far the model's distributions are from those of another one, or"
            " of another way of running it.",
        )
    )


def _add_perplexity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text")
    group.add_argument("--chunks", type=int, metavar="N", help="only the first N chunks of the text")
    group.add_argument(
        "--kl-base",
        type=Path,
        metavar="FILE",
        help="a file of log probabilities, as llama.cpp's --kl-divergence-base writes it: where it is there,"
        " compare the model with it (it has its own text); where not, write it",
    )
    group.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="WAY",
        help="run the text in several ways, such as --compare 0 --compare '0,0 --kv-type q8_0', and compare"
        " each with the first: devices, and options of the model",
    )
    group.add_argument("--json", action="store_true", help="as JSON")
    _add_model(parser, "TEXT", "the text, in UTF-8", CHUNKS_TOGETHER)


def _add_model(parser: argparse.ArgumentParser, metavar: str, text: str, parallel: int) -> None:
    add_model_options(parser)
    parser.add_argument("input", nargs="?", metavar=metavar, help=text)
    parser.set_defaults(parallel=parallel)


def evaluate(options: argparse.Namespace, config: RunConfig) -> int:
    """Runs one of the commands. Raises what it raises."""
    from tplaunch.launcher.commands.perplexity import PerplexityConfig, measure_perplexity

    wanted = PerplexityConfig(
        options.input, options.chunks, options.kl_base, tuple(options.compare), options.json
    )
    return measure_perplexity(config, wanted)
