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
from tplaunch.launcher.config import API_PARALLEL, RunConfig
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import Arrangement, arrange, say_arrangement
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.session import Session, start_session

ALWAYS = ("activations", "kv_type")  # options that change numbers are always in a manifest
RECURRENT_PARALLEL = 8  # each text keeps a state of megabytes


@dataclass(frozen=True)
class Measured:
    """A model, checked and arranged on devices, that was not started yet."""

    config: RunConfig
    model: Model
    tokenizer: Tokenizer
    arrangement: Arrangement
    hashes: Future[tuple[str, ...]]

    def manifest(
        self, command: str, session: Session, options: Mapping[str, Any], seed: int | None = None
    ) -> Manifest:
        """Returns what a measurement was made with. options: the command's own; those that are None are not
        told.
        """
        config = self.config
        split: str | tuple[float, ...] = self.arrangement.split or "equal"
        if isinstance(config.tensor_split, tuple):
            split = config.tensor_split
        return Manifest(
            command,
            tplaunch.__version__,
            config.model.name,  # a path has the name of its last part
            self.hashes.result(),
            tuple(attached.device for attached in session.attached),
            split,
            {
                **_given(config),
                "context": self.arrangement.limits.context_length,
                **{name: value for name, value in options.items() if value is not None},
            },
            seed,
        )


def open_measured(config: RunConfig, context: int | None = None) -> Measured:
    """Reads and checks a model. context: its length where the user gives none. Raises as open_model does."""
    model = open_model(config)
    tokenizer = load_tokenizer(model.metadata)
    if config.context_length is None and context is not None:
        config = replace(config, context_length=min(context, model.spec.context_length))
    if model.spec.is_recurrent and config.parallel == API_PARALLEL:
        config = replace(config, parallel=RECURRENT_PARALLEL)
    config = replace(config, reads_texts=True)
    arrangement = arrange(config, model, select_devices(config.devices))
    hashes = sha256_of([part.path for part in model.origin.parts])
    return Measured(config, model, tokenizer, arrangement, hashes)


@contextmanager
def measuring(measured: Measured) -> Iterator[Session]:
    """Starts the workers; at the end nothing of them is left."""
    say_arrangement(measured.config, measured.model, measured.arrangement)
    with start_session(measured.config, measured.model, measured.arrangement, measured.tokenizer) as session:
        yield session


def _given(config: RunConfig) -> dict[str, Any]:
    """The options of the model that are not as they are by themselves, and those that are always told."""
    defaults = {field.name: field.default for field in fields(RunConfig)}
    found = {}
    for name in declared_options(RunConfig):
        value = getattr(config, name)
        skipped = name in ("devices", "tensor_split", "context_length", "verbose") or not value
        if name in ALWAYS or (not skipped and value != defaults[name]):
            found[name] = value if isinstance(value, str | int | float | bool) else repr(value)
    return found


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file in UTF-8, as it is. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:  # a name with a zero byte
        raise UsageError(f"{str(path)!r} can't be read: {error}") from error
    if len(content) > most_bytes:
        raise UsageError(f"{path} has more than {most_bytes >> 20} MiB; take a part of it")
    return content.decode("utf-8", "replace")
