"""The commands that evaluate a model by a file: their options, and what is made of these.

What they do is imported when one of them is called.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.coordinator.options import declared_options
from tplaunch.coordinator.server.settings import AnswerSettings
from tplaunch.launcher.declared import add_declared, declared_values
from tplaunch.launcher.model_options import add_model_options, run_config
from tplaunch.launcher.serving_options import add_serving_options, serving_config

if TYPE_CHECKING:
    from tplaunch.launcher.options import Parser

EVALUATIONS = ("perplexity", "eval", "batch")
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
    _add_batch(
        commands.add_parser(
            "batch",
            help="answer a file of requests in OpenAI's batch form",
            description="Answers a file of requests, one a line, as OpenAI's batches have them, and adds each"
            " answer to a file as it comes. The same command goes on with a batch that was broken off. A line"
            " that is wrong gets an error of its own; the exit code is 1 where any request failed.",
        )
    )


def _add_batch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batch")
    group.add_argument("--out", type=Path, metavar="FILE", help="where the answers go; needed")
    group.add_argument(
        "--model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="by which requests ask for the model, beside its file's name; may stand several times",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="each request without a seed gets one from this and its id"
    )
    group.add_argument("--json", action="store_true", help="say at the end as JSON what came of it")
    add_declared(group, AnswerSettings, declared_options(AnswerSettings))
    add_serving_options(parser)
    _add_input(parser, "REQUESTS", "the requests, as JSON lines")


def _add_eval(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("task")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N items of the task")
    group.add_argument("--out", type=Path, metavar="FILE", help="write what came of each item, one a line")
    group.add_argument("--json", action="store_true", help="as JSON")
    add_serving_options(parser)
    _add_input(parser, "TASK", "the task, as JSON lines")


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
    add_model_options(parser)
    _add_input(parser, "TEXT", "the text, in UTF-8")
    parser.set_defaults(parallel=CHUNKS_TOGETHER)


def _add_input(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    parser.add_argument("input", nargs="?", metavar=metavar, help=text)


def evaluate(options: argparse.Namespace) -> int:
    """Runs one of the commands, whose model is given. Raises what it raises."""
    if options.command == "perplexity":
        from tplaunch.launcher.commands.perplexity import PerplexityConfig, measure_perplexity

        text = PerplexityConfig(
            options.input, options.chunks, options.kl_base, tuple(options.compare), options.json
        )
        return measure_perplexity(run_config(options, options.model), text)
    config, chose_parallel = serving_config(options, options.model), options.parallel is not None
    if options.command == "eval":
        from tplaunch.launcher.commands.evaluate import EvalConfig, evaluate_task

        task = EvalConfig(options.input, options.limit, options.out, options.json)
        return evaluate_task(config, task, chose_parallel=chose_parallel)
    from tplaunch.launcher.commands.batch import BatchConfig, run_requests

    names = tuple(options.model_name)
    settings = AnswerSettings(**declared_values(AnswerSettings, options))
    batch = BatchConfig(options.input, options.out, names, options.seed, options.json, settings.tool_format)
    return run_requests(config, batch, chose_parallel=chose_parallel)
