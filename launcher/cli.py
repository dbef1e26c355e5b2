"""The command line: parses it, calls the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from coordinator.gguf_file import GgufError
from coordinator.model import ModelError
from coordinator.plan import KV_TYPES, PlanError
from coordinator.sampler import LogitsError, SamplingParameters
from coordinator.scheduler import CapacityError
from coordinator.tokenizer import TokenizerError
from launcher.config import COLLECTIVES, DEFAULT_CONTEXT, RunConfig, UsageError, parse_numbers, parse_tokens
from launcher.generate import GenerateConfig, run
from launcher.session import RunError
from launcher.show import show_devices, show_plan, write_logits

COMMANDS = ("run", "devices", "plan", "logits")
BAD_INPUT = (UsageError, GgufError, ModelError, PlanError, TokenizerError)
FAILED_RUN = (RunError, LogitsError, CapacityError)
EXIT_FAILURE, EXIT_USAGE = 1, 2
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM came: end as after Ctrl-C, with everything cleaned up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code: 0, 1 for a failed run, 2 for bad input, 128 + signal."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # text that the terminal can't show is no reason to end
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*COMMANDS, "-h", "--help", "--version"):
        words.insert(0, "run")  # `tplaunch --devices 0,1 model.gguf` needs no command
    if not words:
        _parser().print_help(sys.stderr)
        return EXIT_USAGE
    try:
        return _dispatch(_parser().parse_args(words))
    except BAD_INPUT as error:
        return _fail(error, EXIT_USAGE)
    except FAILED_RUN as error:
        return _fail(error, EXIT_FAILURE)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return EXIT_FAILURE
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # the shell's prompt comes on a line of its own
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clean-up short
    raise Terminated


def _fail(error: Exception, code: int) -> int:
    print(f"tplaunch: {error}", file=sys.stderr)
    return code


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "devices":
        return show_devices(options.json)
    config = _run_config(options)
    if options.command == "plan":
        return show_plan(config, options.json)
    if options.command == "logits":
        return write_logits(config, parse_tokens(options.tokens), options.out)
    try:
        sampling = SamplingParameters(
            options.temperature, options.top_k, options.top_p, options.min_p, options.seed
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    generate = GenerateConfig(
        prompt=options.prompt,
        tokens=None if options.tokens is None else parse_tokens(options.tokens),
        max_tokens=options.max_tokens,
        ignore_eos=options.ignore_eos,
        sampling=sampling,
        json=options.json,
    )
    return run(config, generate)


def _run_config(options: argparse.Namespace) -> RunConfig:
    return RunConfig(
        model=options.model,
        devices=options.devices,
        tensor_split=None
        if options.tensor_split is None
        else parse_numbers(options.tensor_split, "--tensor-split"),
        context_length=options.context,
        kv_type=options.kv_type,
        collective=options.collective,
        max_rows=options.prefill_chunk,
        timeout_seconds=options.timeout,
        verbose=options.verbose,
        validate=options.validate,
        staging=options.staging,
        submit_ahead=not options.submit_then_wait,
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error, instead of printing the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"tplaunch: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tplaunch",
        description="Tensor-parallel inference of GGUF models on Vulkan devices, one process per device.",
        epilog="Without a command, tplaunch runs the model:"
        " tplaunch --devices 0,1 model.gguf -p 'Once upon a time'. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"tplaunch {metadata.version('tplaunch')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_run(commands.add_parser("run", help="continue a prompt (the default)"))
    devices = commands.add_parser("devices", help="list the Vulkan devices")
    devices.add_argument("--json", action="store_true", help="as JSON")
    plan = commands.add_parser("plan", help="show who would hold what, without opening a device")
    plan.add_argument("--json", action="store_true", help="as JSON")
    _add_model(plan)
    logits = commands.add_parser("logits", help="write the logits of every position to an .npz file")
    logits.add_argument(
        "--tokens", required=True, metavar="IDS", help="the prompt as token ids, such as 5,9,2"
    )
    logits.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file with arrays tokens and logits"
    )
    _add_model(logits)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_argument_group(
        "prompt (without one: a prompt loop on a terminal, else standard input)"
    )
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the text to continue")
    prompt.add_argument("--tokens", metavar="IDS", help="the prompt as token ids, such as 1,403,407")
    output = parser.add_argument_group("output")
    output.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help="tokens at most (default: the context)"
    )
    output.add_argument("--ignore-eos", action="store_true", help="go on past the end token")
    output.add_argument(
        "--json", action="store_true", help="one JSON object: tokens, text, finish reason, timings"
    )
    sampling = parser.add_argument_group("sampling")
    defaults = SamplingParameters()
    sampling.add_argument("--temperature", type=float, default=defaults.temperature, metavar="T",
                          help="0 takes the likeliest token (default: %(default)s)")  # fmt: skip
    sampling.add_argument(
        "--top-k", type=int, default=defaults.top_k, metavar="K", help="0: off (default: %(default)s)"
    )
    sampling.add_argument(
        "--top-p", type=float, default=defaults.top_p, metavar="P", help="1: off (default: %(default)s)"
    )
    sampling.add_argument(
        "--min-p", type=float, default=defaults.min_p, metavar="P", help="0: off (default: %(default)s)"
    )
    sampling.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.gguf", help="the model file")
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument(
        "--devices",
        default="all",
        metavar="LIST",
        help="devices as `tplaunch devices` lists them, by index or name, one rank each; one may stand"
        " several times (0,0); all; cpu for NumPy (default: %(default)s)",
    )
    ranks.add_argument(
        "--tensor-split", metavar="WEIGHTS", help="shares of the ranks, such as 3,1 (default: equal)"
    )
    ranks.add_argument("--collective", default=COLLECTIVES[0], choices=COLLECTIVES,
                       help="how ranks add up their partial sums (default: %(default)s)")  # fmt: skip
    ranks.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                       help="how long a rank may take for one step (default: %(default)s)")  # fmt: skip
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=f"positions to hold (default: the model's, at most {DEFAULT_CONTEXT})",
    )
    memory.add_argument(
        "--kv-type", default="f16", choices=tuple(KV_TYPES), help="of the KV cache (default: %(default)s)"
    )
    memory.add_argument("--prefill-chunk", type=int, default=256, metavar="ROWS",
                        help="prompt tokens computed in one step (default: %(default)s)")  # fmt: skip
    debugging = parser.add_argument_group("debugging")
    debugging.add_argument("-v", "--verbose", action="store_true", help="show the workers' logs")
    debugging.add_argument("--validate", action="store_true", help="with the Khronos validation layer")
    debugging.add_argument(
        "--staging",
        action="store_true",
        help="copy partial sums even where a device could import the host's memory",
    )
    debugging.add_argument("--submit-then-wait", action="store_true",
                           help="submit each part of a step only when it may run")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
