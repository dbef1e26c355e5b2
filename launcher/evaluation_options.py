"""The commands that evaluate a model by a file: their options, and what is made of these.

What they do is imported when one of them is called.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.launcher.config import API_PARALLEL, RunConfig
from tplaunch.launcher.model_options import add_model_options

if TYPE_CHECKING:
    from tplaunch.launcher.options import Parser

EVALUATIONS = ("perplexity", "eval")
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
    _add_eval(
        commands.add_parser(
            "eval",
            help="score a model by a task of JSON lines",
            description="Scores a model by a file of JSON objects, one a line: a prompt with choices, of"
            " which the likeliest should be right, or with an answer that it should write. The numbers are"
            " those of lm-evaluation-harness: acc, acc_norm (by characters), acc_bytes, exact_match.",
        )
    )


def _add_eval(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("task")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N items of the task")
    group.add_argument("--out", type=Path, metavar="FILE", help="write what came of each item, one a line")
    group.add_argument("--json", action="store_true", help="as JSON")
    _add_model(parser, "TASK", "the task, as JSON lines", API_PARALLEL)


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
    if options.command == "eval":
        from tplaunch.launcher.commands.evaluate import EvalConfig, evaluate_task

        return evaluate_task(config, EvalConfig(options.input, options.limit, options.out, options.json))
    from tplaunch.launcher.commands.perplexity import PerplexityConfig, measure_perplexity

    wanted = PerplexityConfig(
        options.input, options.chunks, options.kl_base, tuple(options.compare), options.json
    )
    return measure_perplexity(config, wanted)
