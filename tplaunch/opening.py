"""Opens a model by the arguments of the Python API."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from tplaunch.coordinator.gguf.header import GgufError
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.serving.failures import ClosedError
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.split.plan import MAX_GROUP, PlanError
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.config import RECURRENT_PARALLEL, RunConfig
from tplaunch.launcher.devices import DeviceChoice, select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange, say_arrangement
from tplaunch.launcher.hosts.opening import open_hosts
from tplaunch.launcher.keywords import config_of, in_keywords
from tplaunch.launcher.model import open_model
from tplaunch.launcher.session import start_driver

PARALLEL_NAMES = {"parallel", "max_num_seqs"}


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer | TokenizerError:
    """Returns a model file's tokenizer, or the reason why it can't be used."""
    try:
        return load_tokenizer(metadata)
    except TokenizerError as error:
        return TokenizerError(in_keywords(str(error)))


def open_keywords(
    model: str | os.PathLike[str] | None,
    tensor_parallel_size: int | None,
    seed: int | None,
    keywords: Mapping[str, Any],
) -> Opened:
    """Loads a model. keywords: the command line's options, by the same names.

    Raises UsageError for what is wrong with them or with the model file, RunError where loading fails.
    """
    config = config_of(model, keywords)
    _check_integer("seed", seed, 0, 2**64 - 1)
    _check_integer("tensor_parallel_size", tensor_parallel_size, 1, MAX_GROUP)
    num_ranks = None if tensor_parallel_size is None else tensor_parallel_size * config.num_stages
    with ExitStack() as stack:
        try:
            if num_ranks is not None and config.hosts == 1:
                choices = _as_many(select_devices(config.devices), num_ranks, config, "devices" in keywords)
                config = replace(config, devices=",".join(choice.word for choice in choices))
            opened = open_model(config)
            if opened.spec.is_recurrent and not PARALLEL_NAMES & keywords.keys():
                config = replace(config, parallel=RECURRENT_PARALLEL)
            hosts = stack.enter_context(open_hosts(config, opened))
            if num_ranks not in (None, len(hosts.choices)):
                raise UsageError(
                    f"tensor_parallel_size asks for {num_ranks} ranks, and all hosts have"
                    f" {len(hosts.choices)}; leave it out, or name other devices on each host"
                )
            arrangement = arrange(config, opened, hosts.choices, hosts.measure)
        except (UsageError, GgufError, ModelError, PlanError) as error:
            raise UsageError(in_keywords(str(error))) from error
        say_arrangement(config, opened, arrangement)
        tokenizer = tokenizer_of(opened.metadata)
        usable = None if isinstance(tokenizer, TokenizerError) else tokenizer
        end = partial(_end, stack.pop_all())  # by the driver's thread, behind all that it does
    try:
        driver = start_driver(config, opened, arrangement, usable, hosts=hosts, at_end=end)
    except BaseException as error:
        end(error)  # where that thread was never started
        raise
    return Opened(driver, opened.metadata, tokenizer, seed)


def _end(hosts: ExitStack, error: BaseException) -> None:
    """Gives hosts back; those that joined are told of a failure."""
    if isinstance(error, ClosedError):
        hosts.close()
        return
    with suppress(type(error)):  # it is told elsewhere
        hosts.__exit__(type(error), error, error.__traceback__)


def _as_many(
    choices: list[DeviceChoice], count: int, config: RunConfig, were_named: bool
) -> list[DeviceChoice]:
    """Returns the first `count` devices; they are used in turn where there are fewer."""
    if were_named and len(choices) != count:
        stages = config.num_stages
        size = f"{count // stages} on each of {stages} stages" if stages > 1 else str(count)
        raise UsageError(
            f"tensor_parallel_size is {size}, but devices={config.devices!r:.60} names {len(choices)};"
            " leave one of them out"
        )
    return list(itertools.islice(itertools.cycle(choices), count))


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_integer and least <= value <= most):
        raise UsageError(f"{name} is a whole number of {least} to {most}, not {value!r:.40}")
