"""A way of running a model, as `--compare` gives it: devices, and perhaps options of the model."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import NoReturn

from tplaunch.coordinator.options import declared_options
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.declared import add_declared, declared_values
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.options import Parser


class _WayParser(Parser):
    """Raises what the command line's parser would print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"--compare: {message}")


def way_config(text: str, config: RunConfig) -> RunConfig:
    """Returns the configuration of a way such as "0,0 --kv-type q8_0". Raises UsageError.

    config: of the command itself, from which a way has whatever it does not say.
    """
    parser = _WayParser(prog="--compare", add_help=False)
    parser.add_argument("only_devices", nargs="?")
    declared = declared_options(RunConfig)
    add_declared(parser, RunConfig, declared)
    defaults = {option.name: None for option in declared.values()}
    parser.set_defaults(**defaults)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--compare {text!r}: {error}") from None
    if not words:
        raise UsageError("--compare is empty; give devices, such as --compare 0 --compare 0,0")
    options = parser.parse_args(words)
    if options.only_devices is not None and options.devices is not None:
        raise UsageError(f"--compare {text!r} names devices twice")
    options.devices = options.only_devices or options.devices
    for option in declared.values():
        if getattr(options, option.name) is False and option.opposite is None:
            setattr(options, option.name, None)  # a flag that was not given
    changes = declared_values(RunConfig, options)
    if changes.keys() & {"devices", "hosts"} and "tensor_split" not in changes:
        changes = {**changes, "tensor_split": None}  # of other devices
    if changes.get("hosts") == 1:
        changes = {**changes, "listen": None, "insecure": False}  # of a run with others
    return replace(config, **changes)
