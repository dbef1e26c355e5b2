"""The command line: parses it, calls the command, and turns errors into one line and an exit code.

Commands beside `run` are imported where they are called: all of them take a third of the time of a start.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.gguf.header import GgufError
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.options import OptionError, RankOptions
from tplaunch.coordinator.server.settings import ServerSettings
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.split.plan import PlanError
from tplaunch.coordinator.text.tokenizer import TokenizerError
from tplaunch.launcher.commands.generate import run
from tplaunch.launcher.commands.join import JoinConfig, join
from tplaunch.launcher.commands.keygen import keygen
from tplaunch.launcher.config import HubModel, RandomModel
from tplaunch.launcher.declared import declared_values
from tplaunch.launcher.errors import EXIT_FAILURE, EXIT_USAGE, UsageError
from tplaunch.launcher.evaluation_options import EVALUATIONS, evaluate
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.hosts.placing import COMMANDS, PLACED, take_place
from tplaunch.launcher.lines import say
from tplaunch.launcher.model_options import run_config
from tplaunch.launcher.number_lists import parse_counts, parse_tokens
from tplaunch.launcher.options import make_parser
from tplaunch.launcher.prediction_options import prediction_config
from tplaunch.launcher.prompt_text import read_prompt_file
from tplaunch.launcher.ray_nodes.cluster import placed_by_ray
from tplaunch.launcher.sampling_options import sampling_params
from tplaunch.launcher.serving_options import serving_config
from tplaunch.launcher.signals import Signalled, raise_anew
from tplaunch.launcher.sizes import parse_message_sizes
from tplaunch.launcher.words import parse_words
from tplaunch.worker.faults import fault_sentence

if TYPE_CHECKING:
    from tplaunch.launcher.commands.bench import BenchConfig

STANDARD_INPUT = "-"  # in place of a prompt or of its file
BAD_INPUT = (
    *(UsageError, OptionError, GgufError, ModelError, PlanError),
    *(RequestError, TokenizerError, InputError),
)
FAILED_RUN = (RunError, LogitsError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a failed run, 2 for bad input, 128 + number after a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        make_parser().print_help(sys.stderr)
        return EXIT_USAGE
    try:
        return _ended(words)
    except Signalled as signalled:
        _drop_output()
        if signalled.number == signal.SIGINT and sys.stderr.isatty():
            print(file=sys.stderr)  # the shell's prompt comes on a line of its own
        return signalled.exit_code


def _ended(words: list[str]) -> int:
    """Returns the exit code of what ended by itself. Raises Signalled where a signal has come."""
    try:
        return _run(words)
    except BAD_INPUT as error:
        return _fail(error, EXIT_USAGE)
    except FAILED_RUN as error:
        return _fail(error, EXIT_FAILURE)
    except BrokenPipeError as error:
        if not _reader_has_gone():
            return _fail(fault_sentence(error) or error, EXIT_FAILURE)
        _drop_output()
        return 0  # it has read all that it wanted
    except Exception as error:
        raise_anew()  # what was interrupted may have made another error of it
        sentence = fault_sentence(error)
        if sentence is None:
            raise
        return _fail(sentence, EXIT_FAILURE)


def _run(words: list[str]) -> int:
    try:
        code = _dispatch(parse_words(words))
    except SystemExit:  # of the parser, after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()  # that it can't be written must be found here, not at the process's end
    return code


def _reader_has_gone() -> bool:
    """Tells whether standard output is a pipe that nobody reads; other pipes may break, too."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _drop_output() -> None:
    """Drops the text that is still in sys.stdout: a pipe that nobody reads would keep Python from ending."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _fail(error: Exception | str, code: int) -> int:
    raise_anew()  # whatever has failed since a signal came failed because of it
    say(str(error))
    return code


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "devices":
        from tplaunch.launcher.commands.show import show_devices

        return show_devices(options.json)
    if options.command == "check":
        from tplaunch.launcher.commands.check import CheckConfig, check

        rank_options = RankOptions(**declared_values(RankOptions, options))
        kinds = options.quick, options.speeds
        return check(CheckConfig(options.devices, options.json, options.verbose, *kinds, rank_options))
    if options.command == "keygen":
        return keygen(options.file)
    if options.command == "join":
        return join(JoinConfig(head=options.head, **declared_values(JoinConfig, options)))
    if options.command in PLACED:
        joins = take_place(options, os.environ)
        if joins is not None:
            return join(joins)
    if options.command in COMMANDS:
        with placed_by_ray(options):
            return _carry_out(options)
    return _carry_out(options)


def _carry_out(options: argparse.Namespace) -> int:
    """Does what a command says that may take others than this machine alone."""
    if options.command == "models":
        from tplaunch.launcher.commands.models import show_models

        return show_models(options.json, options.markdown)
    if options.command == "bench-collectives":
        from tplaunch.launcher.commands.collective_bench import bench_collectives

        ranks, sizes = parse_counts(options.ranks, "--ranks"), parse_message_sizes(options.sizes)
        return bench_collectives(ranks, sizes, options.timeout, options.output)
    if options.command == "bench":
        from tplaunch.launcher.commands.bench import bench

        config = run_config(options, _shape_or_file(options))
        return bench(config, _bench_config(options))
    if options.command == "tune":
        from tplaunch.launcher.commands.tune import DEFAULT_MODELS, tune

        models = DEFAULT_MODELS if options.model is options.shape is None else (_shape_or_file(options),)
        return tune(run_config(options, models[0]), models, options.json)
    if options.command == "plan":
        return _plan(options)
    if options.model is None:
        raise UsageError(f"{options.command} takes a model file; give its path, or --demo for a small model")
    if options.command == "serve":
        from tplaunch.launcher.commands.serve import serve

        settings = ServerSettings(**declared_values(ServerSettings, options))
        return serve(serving_config(options, options.model), settings, options.parallel is not None)
    if options.command in EVALUATIONS:
        return evaluate(options)
    config = run_config(options, options.model)
    if options.command == "logits":
        from tplaunch.launcher.commands.show import write_logits

        return write_logits(config, parse_tokens(options.tokens), options.out)
    return run(config, _generate_config(options))


def _plan(options: argparse.Namespace) -> int:
    config = run_config(options, _shape_or_file(options))
    wanted = prediction_config(options)
    if wanted is None:
        from tplaunch.launcher.commands.show import show_plan

        return show_plan(config, options.json, options.explain)
    from tplaunch.launcher.commands.predict import predict

    return predict(config, wanted, options.json)


def _generate_config(options: argparse.Namespace) -> GenerateConfig:
    return GenerateConfig(
        prompt=_prompt(options),
        from_standard_input=STANDARD_INPUT in (options.prompt, str(options.file)),
        parse_special=options.parse_special,
        tokens=None if options.tokens is None else parse_tokens(options.tokens),
        sampling=sampling_params(options),
        json=options.json,
        ledger=options.ledger,
        trace=options.trace,
        chats=options.chat,
        system=options.system_prompt,
        chat_template=options.chat_template,
        drops_oldest=options.drop_oldest,
    )


def _prompt(options: argparse.Namespace) -> str | None:
    """The prompt that is given; None where there is none, or standard input has it."""
    if options.file is not None and str(options.file) != STANDARD_INPUT:
        return read_prompt_file(options.file)
    prompt: str | None = options.prompt
    return None if prompt == STANDARD_INPUT else prompt


def _shape_or_file(options: argparse.Namespace) -> Path | HubModel | RandomModel:
    if (options.model is None) == (options.shape is None):
        raise UsageError(f"{options.command} takes a model file or a --shape; give one of them")
    if options.shape is not None:
        return RandomModel(options.shape, (options.type or "q8_0").upper())
    if options.type is not None:
        raise UsageError("--type goes with --shape; a model file has its own types")
    model: Path | HubModel = options.model
    return model


def _bench_config(options: argparse.Namespace) -> BenchConfig:
    from tplaunch.launcher.commands.bench import BenchConfig

    return BenchConfig(
        prefill=parse_counts(options.prefill, "--prefill"),
        cached=parse_counts(options.cached, "--cached"),
        decode=parse_counts(options.decode, "--decode"),
        at_context=parse_counts(options.at_context, "--at-context"),
        batch=parse_counts(options.batch, "--batch"),
        repeat=options.repeat,
        ranks=None if options.ranks is None else parse_counts(options.ranks, "--ranks"),
        output=options.output,
        ledger=options.ledger,
        trace=options.trace,
        gguf=options.write_gguf,
    )
