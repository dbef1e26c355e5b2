"""A model that is opened to be measured, and the manifest of what is measured with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tplaunch
from tplaunch.coordinator.evaluation.manifest import Manifest, sha256_of
from tplaunch.coordinator.options import declared_options
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer
from tplaunch.launcher.config import RECURRENT_PARALLEL, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import Arrangement, arrange, say_arrangement
from tplaunch.launcher.hosts.opening import Hosts, open_hosts
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.session import Session, start_session
from tplaunch.launcher.text_file import read_some

# What stands elsewhere in a manifest, or changes no number.
UNTOLD = ("devices", "tensor_split", "context_length", "verbose", "key", "listen", "insecure")
ALWAYS = ("activations", "kv_type")  # options that change numbers are always in a manifest


@dataclass(frozen=True)
class Measured:
    """A model, checked and arranged on devices, that was not started yet."""

    config: RunConfig
    model: Model
    tokenizer: Tokenizer
    arrangement: Arrangement
    hosts: Hosts
    hashes: Future[tuple[str, ...]]

    def manifest(self, command: str, session: Session, options: Mapping[str, Any]) -> Manifest:
        """Returns what a measurement was made with. options: the command's own."""
        return make_manifest(command, self.config, session, self.hashes, options)


def make_manifest(
    command: str,
    config: RunConfig,
    session: Session,
    hashes: Future[tuple[str, ...]],
    options: Mapping[str, Any],
    seed: int | None = None,
) -> Manifest:
    """Returns what something was made with. options: the command's own; those that are None are not told."""
    size = session.engine.spec.vocabulary_size
    split = tuple(round(len(share.vocabulary) / size, 4) for share in session.plan)
    if isinstance(config.tensor_split, tuple):
        split = config.tensor_split
    return Manifest(
        command,
        tplaunch.__version__,
        config.model.name,  # of a path its last part
        hashes.result(),
        tuple(attached.device for attached in session.attached),
        split,
        {
            **_given(config),
            "activations": session.activations,
            "context": session.limits.context_length,
            **{name: value for name, value in options.items() if value is not None},
        },
        seed,
    )


def hashes_of(model: Model) -> Future[tuple[str, ...]]:
    """Hashes the model's files, while others read them, too."""
    return sha256_of([part.path for part in model.origin.parts])


@dataclass(frozen=True)
class Checked:
    """A model that was read and checked, with no devices yet."""

    config: RunConfig
    model: Model
    tokenizer: Tokenizer

    def on(self, hosts: Hosts) -> Measured:
        """Arranges it on the devices of hosts. Raises PlanError and its like."""
        arrangement = arrange(self.config, self.model, hosts.choices, hosts.measure)
        return Measured(self.config, self.model, self.tokenizer, arrangement, hosts, hashes_of(self.model))


@contextmanager
def open_measured(
    config: RunConfig, context: int | None = None, *, chose_parallel: bool = True
) -> Iterator[Measured]:
    """Reads and checks a model, and has its hosts within the context. Raises as open_model does.

    context, chose_parallel: as checked_model has them.
    """
    checked = checked_model(config, context, chose_parallel=chose_parallel)
    with open_hosts(checked.config, checked.model) as hosts:
        yield checked.on(hosts)


def checked_model(config: RunConfig, context: int | None = None, *, chose_parallel: bool = True) -> Checked:
    """Reads and checks a model. Raises as open_model does.

    context: its length where the user gives none. chose_parallel: the number of sequences is the user's, and
    not a default that may be lowered.
    """
    model = open_model(config)
    tokenizer = load_tokenizer(model.metadata)
    if config.context_length is None and context is not None:
        config = replace(config, context_length=min(context, model.spec.context_length))
    if model.spec.is_recurrent and not chose_parallel:
        config = replace(config, parallel=RECURRENT_PARALLEL)
    return Checked(replace(config, reads_texts=True), model, tokenizer)


@contextmanager
def measuring(measured: Measured) -> Iterator[Session]:
    """Starts the workers; at the end nothing of them is left."""
    say_arrangement(measured.config, measured.model, measured.arrangement)
    with start_session(
        measured.config, measured.model, measured.arrangement, measured.tokenizer, hosts=measured.hosts
    ) as session:
        yield session


def _given(config: RunConfig) -> dict[str, Any]:
    """The options of the model that are not as they are by themselves, and those that are always told."""
    defaults = {field.name: field.default for field in fields(RunConfig)}
    found = {}
    for name in declared_options(RunConfig):
        value = getattr(config, name)
        skipped = name in UNTOLD or not value
        if name in ALWAYS or (not skipped and value != defaults[name]):
            found[name] = value if isinstance(value, str | int | float | bool) else repr(value)
    return found


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file in UTF-8, without a newline at its very end, as llama.cpp reads it.

    Raises UsageError.
    """
    content = read_some(path, most_bytes)
    if len(content) > most_bytes:
        raise UsageError(f"{path} has more than {most_bytes >> 20} MiB; take a part of it")
    return content.decode("utf-8", "replace").removesuffix("\n")
