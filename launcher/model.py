"""The model that a command is given, checked: a file or a well-known shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.kinds import no_model
from tplaunch.coordinator.gguf.origin import Origin, TensorInfo
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.gguf.paths import Stamp
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import check_tensors
from tplaunch.coordinator.text.tokenizer import TokenizerError, load_tokenizer
from tplaunch.coordinator.text.vocabulary import PREFIX
from tplaunch.launcher.config import HubModel, RandomModel, RunConfig
from tplaunch.launcher.devices import check_devices
from tplaunch.launcher.hub.fetch import fetch
from tplaunch.launcher.model_path import check_path
from tplaunch.launcher.overrides import overridden
from tplaunch.worker.step.rope_tables import check_factors
from tplaunch.worker.weights.model_file import ModelFile


@dataclass(frozen=True)
class Model:
    """A model that can be run."""

    origin: Origin
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    spec: ModelSpec
    stamps: tuple[Stamp, ...] = ()  # of its files

    @property
    def is_standard_input(self) -> bool:
        """Returns true if standard input reads one of the model's files."""
        return any(stamp.is_descriptor(0) for stamp in self.stamps)

    def change(self) -> str | None:
        """Returns a sentence on the first change of its files since they were opened; None for no change."""
        return next(filter(None, (stamp.change() for stamp in self.stamps)), None)

    def overwriting(self) -> str | None:
        """The same for what changes the weights that are in use."""
        return next(filter(None, (stamp.overwriting() for stamp in self.stamps)), None)

    @property
    def num_learned(self) -> int | None:
        """Positions that it has learned, as rows of a table; None where any position is computed."""
        return self.spec.context_length if self.spec.position_embeddings else None

    @property
    def num_texts(self) -> int:
        """Tokens of the file's tokenizer; 0 where it has none."""
        texts = self.metadata.get(PREFIX + "tokens")
        return len(texts) if isinstance(texts, list) else 0

    def tokenizer_fault(self) -> str | None:
        """Why the file's tokenizer can't be used, as a sentence; None where it can, and for a shape."""
        try:
            if self.metadata:
                load_tokenizer(self.metadata)
        except TokenizerError as error:
            return str(error)
        return None

    @property
    def padding(self) -> range:
        """The ids that have a row in the embeddings but no text, and must never be generated."""
        return range(self.num_texts or self.spec.vocabulary_size, self.spec.vocabulary_size)


def open_model(config: RunConfig, needs_devices: bool = True) -> Model:
    """Reads and checks the files, or looks up the shape.

    A model of a repository is downloaded first, but not for devices that are not here. Raises GgufError,
    ModelError, UsageError or RunError.
    """
    if isinstance(config.model, RandomModel):
        shape = SHAPES[config.model.shape]
        tensors = shape_tensors(shape, config.model.weight_type)
        return Model(Origin(), {}, tensors, shape.spec)
    path = config.model
    if isinstance(path, HubModel):
        path = fetch(path, lambda: _check_ranks(config) if needs_devices else None)
    check_path(path)
    file = read_model(path)
    metadata = overridden(file.metadata, config.overrides)
    reason = no_model(metadata, file.tensors)
    if reason:
        raise ModelError(f"{path} {reason}")
    spec = model_spec(metadata, file.tensors)
    check_tensors(spec, file.tensors)
    if any(rope.frequency_factors or rope.long_frequency_factors for rope in spec.ropes):
        check_factors(spec.ropes, ModelFile(file.origin.parts), file.tensors)
    model = Model(file.origin, metadata, file.tensors, spec, file.stamps)
    if model.num_texts > spec.vocabulary_size:
        raise ModelError(
            f"the tokenizer has {model.num_texts} tokens, but the model's embeddings only"
            f" {spec.vocabulary_size} rows: they are not of one model"
        )
    return model


def _check_ranks(config: RunConfig) -> None:
    """Raises UsageError for devices or shares that can't be: better before gigabytes come than after."""
    config.rank_weights(check_devices(config.devices))
