"""Loads a model for many requests at a time: for a server, a batch or an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.config import RECURRENT_PARALLEL, HubModel, RunConfig
from tplaunch.launcher.fitting.arrange import arrange, say_arrangement
from tplaunch.launcher.hosts.opening import open_hosts
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.session import start_driver


@dataclass(frozen=True)
class Loaded:
    """A model that takes requests, and how it was asked for."""

    opened: Opened
    model: Model
    config: RunConfig


@contextmanager
def open_for_many(config: RunConfig, *, chose_parallel: bool) -> Iterator[Loaded]:
    """Loads the model; gives everything back at the end. Raises UsageError and its like, and RunError.

    chose_parallel: the number of sequences is the user's, and not a default that may be lowered.
    """
    model = open_model(config)
    if model.spec.is_recurrent and not chose_parallel:
        config = replace(config, parallel=RECURRENT_PARALLEL)
    with open_hosts(config, model) as hosts:
        arrangement = arrange(config, model, hosts.choices, hosts.measure)
        say_arrangement(config, model, arrangement)
        tokenizer = _tokenizer(model)
        usable = None if isinstance(tokenizer, TokenizerError) else tokenizer
        driver = start_driver(config, model, arrangement, usable, hosts=hosts, owns_process=True)
        opened = Opened(driver, model.metadata, tokenizer)
        try:
            yield Loaded(opened, model, config)
        finally:
            opened.close()


def _tokenizer(model: Model) -> Tokenizer | TokenizerError:
    try:
        return load_tokenizer(model.metadata)
    except TokenizerError as error:
        return error


def model_names(model: Path | HubModel) -> list[str]:
    """Returns the names by which clients may ask for a model: the file's without its ending comes first."""
    if isinstance(model, HubModel):
        return [model.name, model.repository]
    return list(dict.fromkeys((model.stem, model.name, str(model))))
