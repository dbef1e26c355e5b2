"""Checks a step's numbers and puts them where the kernels read them: integers, embeddings, rope table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import Load, Step
from tplaunch.worker.buffers.step import (
    ATTENTION_VECTORS,
    INDIRECT_WORD,
    NUM_RUNS_WORD,
    StepLayout,
    StepView,
    attention_groups,
    attention_vectors,
)
from tplaunch.worker.buffers.table import MAX_ATTENTION_CHUNK, attention_slots
from tplaunch.worker.device import Device
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.step.rope_tables import RopeTables, temperatures
from tplaunch.worker.weights.source import WeightSource

Floats = npt.NDArray[np.float32]
MIN_CHUNK = 256  # keys: shorter ones are not worth a workgroup


class StepError(ValueError):
    """A step that this rank can't run; the message names the numbers."""


class StepWriter:
    """Fills the UPLOAD buffers of a device for one step after another."""

    def __init__(self, device: Device, weights: WeightSource, load: Load) -> None:
        self._spec, self._limits = load.spec, load.limits
        self._heads = _most_heads(load)
        self._vectors = min(
            (attention_vectors(layer.key_length, layer.value_length) for layer in load.spec.attentions),
            default=ATTENTION_VECTORS,
        )
        tensors = {tensor.name: tensor for tensor in load.tensors}
        embeddings = tensors["token_embd.weight"]
        self._token_rows, self._format = weights.rows(embeddings), FORMATS[embeddings.type]
        self._ropes = RopeTables(load.spec.ropes, load.limits.context_length, weights, tensors)
        self._position_embeddings = None
        if load.spec.position_embeddings:
            self._position_embeddings = weights.floats(tensors[load.spec.position_embeddings])
        self._step = StepView(device.view("step").view(np.uint32), StepLayout(load.limits))
        self._rope = device.view("rope").view(np.float32).reshape(load.limits.max_rows, -1)
        self._embedding = device.view("embedding").view(np.float32).reshape(load.limits.max_rows, -1)
        self._num_steps = 0

    def write(self, step: Step) -> None:
        """Raises StepError for a step that does not fit, before anything is written."""
        self._check(step)
        self._num_steps = step.number
        num_rows, num_chunks, chunk_length = step.token_ids.size, *self._chunks(step)
        view = self._step
        groups = attention_groups(num_rows, *self._heads, num_chunks, self._vectors)
        counts = (num_rows, step.logit_rows.size, chunk_length, num_chunks)
        view.header[: INDIRECT_WORD + 3] = (*counts, *groups)
        view.positions[:num_rows] = step.positions
        view.table_starts[:num_rows] = step.table_starts
        view.logit_rows[: step.logit_rows.size] = step.logit_rows
        view.tables[: step.tables.size] = step.tables
        self._write_runs(step)
        embeddings = self._format.widen(self._token_rows[step.token_ids], self._spec.embedding_length)
        if self._spec.embedding_scale != 1:
            embeddings *= np.float32(self._spec.embedding_scale)
        if self._position_embeddings is not None:
            embeddings += self._position_embeddings[step.positions]
        self._embedding[:num_rows, : self._spec.embedding_length] = embeddings
        ropes_end = self._rope.shape[1] - (self._spec.temperature is not None)
        self._ropes.write(step.positions, self._rope[:num_rows, :ropes_end])
        if self._spec.temperature is not None:
            self._rope[:num_rows, -1] = temperatures(self._spec.temperature, step.positions)

    def _write_runs(self, step: Step) -> None:
        starts = _run_starts(step.slots)
        self._step.header[NUM_RUNS_WORD] = starts.size
        self._step.run_starts[: starts.size] = starts
        self._step.run_starts[starts.size] = step.slots.size
        self._step.run_slots[: starts.size] = step.slots[starts]

    def _chunks(self, step: Step) -> tuple[int, int]:
        """How many chunks of how many keys attention is cut into: what the buffers hold, none too short."""
        num_keys = int(step.positions.max()) + 1
        max_chunks = attention_slots(self._limits) // step.token_ids.size
        num_chunks = max(1, min(max_chunks, num_keys // MIN_CHUNK))
        chunk_length = -(-num_keys // num_chunks)
        assert chunk_length <= MAX_ATTENTION_CHUNK, f"{num_keys} keys in {num_chunks} chunks"
        return num_chunks, chunk_length

    def _check(self, step: Step) -> None:
        limits, num_rows = self._limits, step.token_ids.size
        if step.number != self._num_steps + 1:
            raise StepError(f"step {step.number} came after step {self._num_steps}")
        if not 1 <= num_rows <= limits.max_rows or step.logit_rows.size > limits.max_logit_rows:
            raise StepError(
                f"step {step.number} has {num_rows} rows and {step.logit_rows.size} logit rows;"
                f" 1 to {limits.max_rows} and at most {limits.max_logit_rows} are possible"
            )
        if not num_rows == step.positions.size == step.table_starts.size:
            raise StepError(f"step {step.number}: {num_rows} tokens, {step.positions.size} positions")
        if step.tables.size > limits.num_blocks:
            raise StepError(f"step {step.number} has block tables of {step.tables.size} entries")
        _check_range("token id", step.token_ids, self._spec.vocabulary_size)
        _check_range("position", step.positions, limits.context_length)
        _check_range("table start", step.table_starts, step.tables.size)
        _check_range(
            "last block", step.table_starts + step.positions // limits.block_length, step.tables.size
        )
        _check_range("block", step.tables, limits.num_blocks)
        _check_range("logit row", step.logit_rows, num_rows)
        self._check_slots(step)

    def _check_slots(self, step: Step) -> None:
        """A state is read and written once a step: by neighbouring rows, at consecutive positions."""
        num_rows = step.token_ids.size if self._limits.num_slots else 0
        if step.slots.size != num_rows:
            raise StepError(f"step {step.number} has {step.slots.size} state slots; {num_rows} are needed")
        _check_range("state slot", step.slots, self._limits.num_slots)
        starts = _run_starts(step.slots)
        if np.unique(step.slots[starts]).size != starts.size:
            raise StepError(f"step {step.number}: rows with the same state slot are not neighbours")
        if num_rows and np.any(np.delete(np.diff(step.positions), starts[1:] - 1) != 1):
            raise StepError(f"step {step.number}: the positions of a state slot's rows are not consecutive")


def _run_starts(slots: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """The first row of each sequence."""
    return np.flatnonzero(np.diff(slots, prepend=-1)) if slots.size else np.zeros(0, np.intp)


def _check_range(what: str, values: npt.NDArray[np.int32], stop: int) -> None:
    if values.size and values.view(np.uint32).max() >= stop:  # negative ones become large
        raise StepError(f"a {what} from {values.min()} to {values.max()}; 0 to {stop - 1} are possible")


def _most_heads(load: Load) -> tuple[int, int]:
    """KV heads, and heads of one: of the layers that have most of each, for which attention is dispatched."""
    attentions = [
        (len(held.kv_heads), layer.attention.heads_per_kv_head)
        for layer, held in zip(load.spec.layers, load.share.layers, strict=True)
        if layer.attention is not None
    ]
    return max((held for held, _ in attentions), default=0), max(
        (group for _, group in attentions), default=1
    )


def row_bucket(num_rows: int, max_rows: int) -> int:
    """The rows of the program that runs `num_rows` rows: the next power of two."""
    return min(max_rows, 1 << (num_rows - 1).bit_length()) if num_rows else 0
