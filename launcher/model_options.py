"""The options that say which model runs on what: the same for every command that loads one, and the API."""

from __future__ import annotations

import argparse
from pathlib import Path

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import ACTIVATIONS
from tplaunch.coordinator.split.plan import EXPERT_SPLITS
from tplaunch.launcher.config import (
    ALL_REDUCES,
    COLLECTIVES,
    DEFAULT_LOAD_TIMEOUT_SECONDS,
    HubModel,
    RandomModel,
    RunConfig,
    parse_split,
)
from tplaunch.launcher.fitting.context_fit import MAX_ROWS
from tplaunch.launcher.overrides import parse_overrides
from tplaunch.launcher.sizes import parse_max_memory, parse_state_cache

API_PARALLEL = 64  # of a program that gives many prompts at once


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The model, and on what it runs. launcher/words.py tells whether one is given."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL.gguf",
        help="the model file, or any part of a model of several files",
    )
    parser.add_argument("-m", "--model", dest="model_file", metavar="FILE", help="the same, as an option")
    parser.add_argument(
        "-hf",
        "-hfr",
        "--hf-repo",
        metavar="ORG/NAME[:QUANT]",
        help="a model in a repository of Hugging Face, downloaded once and kept where other tools keep theirs"
        " (default: Q4_K_M, else the first file); HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT count",
    )
    parser.add_argument("-hff", "--hf-file", metavar="FILE", help="which file of that repository")
    parser.add_argument("--demo", action="store_true", help="the small model that comes with tplaunch")
    parser.add_argument(
        "--override-kv",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="change the file's metadata, such as llama.context_length=int:8192; the types are int, float,"
        " bool and str; may stand several times",
    )
    _add_ranks(parser.add_argument_group("ranks"))
    _add_memory(parser.add_argument_group("memory"))
    _add_debugging(parser.add_argument_group("debugging"))


def _add_ranks(ranks: argparse._ArgumentGroup) -> None:
    ranks.add_argument(
        "--devices",
        default="all",
        metavar="LIST",
        help="devices as `tplaunch devices` lists them, by index or name, one rank each; one may stand"
        " several times (0,0); all, for each card once; cpu for NumPy (default: %(default)s)",
    )
    ranks.add_argument(
        "--tensor-split",
        metavar="WEIGHTS",
        help="shares of the ranks, such as 3,1; auto weighs them by speed, as far as memory allows"
        " (default: equal)",
    )
    ranks.add_argument("--expert-split", default=EXPERT_SPLITS[0], choices=EXPERT_SPLITS,
                       help="a rank holds its columns of all experts, or all of its experts"
                       " (default: %(default)s)")  # fmt: skip
    ranks.add_argument("--collective", default=COLLECTIVES[0], choices=COLLECTIVES,
                       help="how ranks add up their partial sums (default: %(default)s)")  # fmt: skip
    ranks.add_argument(
        "--all-reduce",
        default="auto",
        choices=ALL_REDUCES,
        help="every rank adds up all, or a slice of its own in a first phase; auto measures from three ranks"
        " on (default: %(default)s)",
    )
    ranks.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                       help="how long a rank may take for one step (default: %(default)s)")  # fmt: skip
    ranks.add_argument("--load-timeout", type=float, default=DEFAULT_LOAD_TIMEOUT_SECONDS, metavar="SECONDS",
                       help="how long a rank may load without progress (default: %(default)s)")  # fmt: skip


def _add_memory(memory: argparse._ArgumentGroup) -> None:
    memory.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="positions to hold (default: the model's, or as many as fit)",
    )
    memory.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="sequences at once: the KV cache has room for one whole context, and up to 1,024 positions more"
        f" for each other one (default: %(default)s, and {API_PARALLEL} of the Python API)",
    )
    memory.add_argument(
        "--state-cache",
        default="1GiB",
        metavar="SIZE",
        help="what all devices together keep of earlier states of recurrent layers, so that a prompt that"
        " begins as an earlier one goes on from there; as much as fits beside the context, but two"
        " snapshots at least unless it is 0 (default: %(default)s)",
    )
    memory.add_argument(
        "--max-memory",
        metavar="INDEX=SIZE,...",
        help="what the ranks on a device may take, such as 0=8GiB,1=20GiB; cpu= for this machine's memory",
    )
    memory.add_argument(
        "--kv-type", default="f16", choices=tuple(KV_TYPES), help="of the KV cache (default: %(default)s)"
    )
    memory.add_argument(
        "--activations",
        default=ACTIVATIONS[0],
        choices=ACTIVATIONS,
        help="what weights are multiplied by: f16 (in a prefill) and q8 round, for devices with cooperative"
        " matrices and with integer dot products (default: %(default)s)",
    )
    memory.add_argument(
        "--prefill-chunk",
        type=int,
        metavar="ROWS",
        help=f"prompt tokens computed in one step (default: {MAX_ROWS}, or so few that they take 64 MB)",
    )


def _add_debugging(debugging: argparse._ArgumentGroup) -> None:
    debugging.add_argument("-v", "--verbose", action="store_true", help="show the workers' logs")
    debugging.add_argument("--validate", action="store_true", help="with the Khronos validation layer")
    debugging.add_argument(
        "--staging",
        action="store_true",
        help="copy partial sums even where a device could import the host's memory",
    )
    submit = debugging.add_mutually_exclusive_group()
    submit.add_argument("--submit-ahead", action="store_true", default=None,
                        help="submit a step's parts at once (default: what is faster)")  # fmt: skip
    submit.add_argument("--submit-then-wait", dest="submit_ahead", action="store_false",
                        help="submit each part of a step only when it may run")  # fmt: skip
    debugging.add_argument("--without", metavar="FEATURES",
                           help="do as if the devices lacked these features, such as int64")  # fmt: skip


def run_config(options: argparse.Namespace, model: Path | HubModel | RandomModel) -> RunConfig:
    """Returns the options as checked data. Raises UsageError."""
    return RunConfig(
        model=model,
        devices=options.devices,
        tensor_split=None if options.tensor_split is None else parse_split(options.tensor_split),
        context_length=options.context,
        kv_type=options.kv_type,
        activations=options.activations,
        collective=options.collective,
        max_rows=options.prefill_chunk,
        timeout_seconds=options.timeout,
        load_timeout_seconds=options.load_timeout,
        verbose=options.verbose,
        validate=options.validate,
        staging=options.staging,
        submit_ahead=options.submit_ahead,
        all_reduce=options.all_reduce,
        parallel=options.parallel,
        state_cache_bytes=parse_state_cache(options.state_cache),
        max_memory={} if options.max_memory is None else parse_max_memory(options.max_memory),
        overrides=parse_overrides(options.override_kv),
        without=() if options.without is None else tuple(options.without.split(",")),
        expert_split=options.expert_split,
    )
