"""The options of commands that load a model for many requests at a time."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from tplaunch.launcher.config import API_PARALLEL, RECURRENT_PARALLEL, HubModel, RunConfig
from tplaunch.launcher.model_options import add_model_options, run_config


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a model; without --parallel there is room for many sequences."""
    add_model_options(parser, serves=True)
    for action in parser._actions:
        if action.dest == "parallel":
            action.default = None
            action.help = (action.help or "").partition(" (default")[0] + (
                f" (default: {API_PARALLEL}, and {RECURRENT_PARALLEL} of a model with recurrent layers)"
            )


def serving_config(options: argparse.Namespace, model: Path | HubModel) -> RunConfig:
    """Returns the options as checked data. Raises UsageError."""
    config = run_config(options, model)
    return config if options.parallel is not None else replace(config, parallel=API_PARALLEL)
