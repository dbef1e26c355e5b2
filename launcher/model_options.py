"""The options that say which model runs on what: the same for every command that loads one, and the API."""

from __future__ import annotations

import argparse
from pathlib import Path

from tplaunch.coordinator.options import RankOptions, declared_options
from tplaunch.launcher.config import (
    INVITED,
    MODEL_GROUP,
    SERVING_GROUP,
    HubModel,
    RandomModel,
    RunConfig,
)
from tplaunch.launcher.declared import add_declared, declared_values


def add_model_options(parser: argparse.ArgumentParser, *, serves: bool = False) -> None:
    """The model, and on what it runs. launcher/words.py tells whether one is given.

    serves: also the options of those that compute the requests of many, as a server does.
    """
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
    inherited = declared_options(RankOptions)
    own = {name: option for name, option in declared_options(RunConfig).items() if name not in inherited}
    titles = {option.group: None for option in own.values() if serves or option.group != SERVING_GROUP}
    for title in titles:
        group = parser if title == MODEL_GROUP else parser.add_argument_group(title)
        names = [name for name, option in {**own, **inherited}.items() if option.group == title]
        add_declared(group, RunConfig, names)


def run_config(options: argparse.Namespace, model: Path | HubModel | RandomModel) -> RunConfig:
    """Returns the options as checked data. Raises UsageError."""
    others_come = getattr(options, "others_come", INVITED)
    return RunConfig(model=model, others_come=others_come, **declared_values(RunConfig, options))
