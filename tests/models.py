"""Tiny llama models for tests: specs, tensor tables, GGUF files, and all ranks of a model in one process."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize
from hypothesis import settings

from tests.blocks import model_rows
from tests.vocabularies import add_vocabulary
from tplaunch.collectives.arena import private_arena
from tplaunch.coordinator import candidates
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.shapes import tensor_shapes as shapes_of
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.parts import GgufModel, read_model
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.messages import (
    PROTOCOL_VERSION,
    Attached,
    Connect,
    FetchRows,
    Hello,
    Load,
    Message,
    Ready,
    Rows,
    Step,
    StepDone,
)
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.model.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.channel import Channel
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.sampling.results import every_row
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import check_tensors, rank_shards
from tplaunch.coordinator.split.placement import HEAD, Placement
from tplaunch.coordinator.split.plan import RankShare, Stage, make_plan, padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.coordinator.split.stages import most_in_flight, placed
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.write_gguf import add_metadata
from tplaunch.worker.buffers.stack_parts import in_parts
from tplaunch.worker.buffers.stacks import stack_shards
from tplaunch.worker.buffers.state import state_buffers
from tplaunch.worker.buffers.table import activation_buffers, cache_buffers, weight_buffers
from tplaunch.worker.device import Device
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.attention import MATRIX_KV_TYPES
from tplaunch.worker.programs.moving import with_moves
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.step.copies import BlockCopier
from tplaunch.worker.step.writer import StepWriter, row_bucket
from tplaunch.worker.weights.model_file import ModelFile, load_stack

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FACTORS = {"frequency_factors": "rope_freqs.weight"}  # changes of a rope
DIMENSIONS: dict[str, Any] = {
    "architecture": "llama",
    "num_layers": 2,
    "embedding_length": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "key_length": 8,
    "value_length": 8,
    "feed_forward_length": 64,
    "vocabulary_size": 48,
    "context_length": 128,
    "norm_epsilon": 1e-5,
    "rope": {"dimension": 8, "base": 10000.0, "scale": 1.0, "interleaved": True},
}

# The weight types that the installed gguf package can write.
WRITABLE_TYPES = {
    name: weight_type
    for name, weight_type in WEIGHT_TYPES.items()
    if name in gguf.GGMLQuantizationType.__members__
}


def make_spec(**changes: Any) -> ModelSpec:
    """A llama whose layers are alike: DIMENSIONS, changed; `rope` may be a mapping of changes to its own."""
    rope = {**DIMENSIONS["rope"], **changes.pop("rope", {})}
    numbers = {**DIMENSIONS, **changes}
    key_length = numbers["key_length"]
    heads = {name: numbers[name] for name in ("num_heads", "num_kv_heads", "key_length", "value_length")}
    layer = LayerSpec(
        AttentionSpec(**heads, scale=key_length**-0.5), FeedForwardSpec(numbers["feed_forward_length"])
    )
    return ModelSpec(
        architecture=numbers["architecture"],
        embedding_length=numbers["embedding_length"],
        vocabulary_size=numbers["vocabulary_size"],
        context_length=numbers["context_length"],
        norm=Norm("rms", numbers["norm_epsilon"]),
        ropes=(RopeSpec(**rope),),
        layers=(layer,) * numbers["num_layers"],
    )


SPEC = make_spec()
LIMITS = Limits(
    context_length=64,
    num_blocks=32,
    block_length=4,
    max_rows=16,
    max_logit_rows=16,
    kv_type="f32",
    max_sequences=8,
    num_window_blocks=32,
)


def examples(count: int) -> settings:
    """Hypothesis settings: so many examples, the same in every run."""
    return settings(max_examples=count, derandomize=True)


def config_of(model: Path | RandomModel, **changes: Any) -> RunConfig:
    """Returns the command line's configuration when no options but these are given."""
    config = RunConfig(model=model, devices="numpy", submit_ahead=True)
    return dataclasses.replace(config, **changes)


def kind_of(tensor: str) -> str:
    """A tensor's name without its layer: attn_q.weight of any layer."""
    return tensor.split(".", 2)[2] if tensor.startswith("blk.") else tensor


def tensor_shapes(
    spec: ModelSpec, *, biases: bool = False, tied: bool = False, scales: bool = False
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a llama and its shape, rows first. scales: one of each matrix, or of each expert's."""
    shapes = shapes_of(spec, tied=tied)
    if scales:
        for name, shape in list(shapes.items()):
            if name.startswith("blk.") and len(shape) > 1:
                shapes[name.removesuffix("weight") + "scale"] = shape[:-2] or (1,)
    if biases:
        for name, shape in list(shapes.items()):
            if name.startswith("blk.") and not name.endswith(("norm.weight", ".scale")):
                shapes[name.removesuffix("weight") + "bias"] = shape[:-1]
    return shapes


def tensor_infos(
    shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str] | None = None
) -> dict[str, TensorInfo]:
    """A table as a file would have it. types: by kind_of, F32 for the others."""
    infos, offset = {}, 0
    for name, shape in shapes.items():
        weight_type = WEIGHT_TYPES[(types or {}).get(kind_of(name), "F32")]
        nbytes = math.prod(shape[:-1]) * weight_type.row_bytes(shape[-1])
        infos[name] = TensorInfo(name, weight_type.name, shape, offset, nbytes)
        offset += nbytes
    return infos


def stored(values: Floats, weight_type: str, random: np.random.Generator) -> tuple[Bytes, Floats]:
    """Returns a file's bytes for these values, or for others like them, and the values they stand for."""
    kind = gguf.GGMLQuantizationType[weight_type]
    try:
        raw = quantize(values, kind).view(np.uint8)
    except NotImplementedError:
        raw = model_rows(weight_type, len(values), values.shape[1], random)
    return raw, dequantize(raw, kind)


def write_llama(
    path: Path,
    spec: ModelSpec = SPEC,
    types: Mapping[str, str] | None = None,
    *,
    biases: bool = False,
    tied: bool = False,
    scales: bool = False,
    seed: int = 0,
    vocabulary: Mapping[str, Any] | None = None,
) -> dict[str, Floats]:
    """Writes a random model; returns its weights as the file stands for them.

    types: as in tensor_infos; vocabulary: metadata as in tests.vocabularies.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, spec.architecture)
    add_metadata(writer, spec)
    add_vocabulary(writer, vocabulary or {})
    weights = {}
    shapes = tensor_shapes(spec, biases=biases, tied=tied, scales=scales)
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32) / np.float32(math.sqrt(shape[-1]))
        if name.endswith("norm.weight"):
            values = values + np.float32(1)
        if name.endswith(".scale"):
            values = 0.5 + random.random(shape, np.float32)
        if name == "rope_freqs.weight":
            values = 1 + random.random(shape, np.float32) * 7
        weight_type = (types or {}).get(kind_of(name), "F32")
        raw, weights[name] = stored(values, weight_type, random)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[weight_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def open_model(path: Path) -> tuple[GgufModel, ModelSpec]:
    """Reads a file and checks it as the launcher does."""
    file = read_model(path)
    spec = model_spec(file.metadata, file.tensors)
    check_tensors(spec, file.tensors)
    return file, spec


def load_message(
    file: GgufModel,
    spec: ModelSpec,
    share: RankShare,
    num_ranks: int,
    limits: Limits,
    collective: str,
    placement: Placement | None = None,
) -> Load:
    """Returns the message that a coordinator would send to one rank. placement: of one stage by default."""
    return Load(
        origin=file.origin,
        spec=spec,
        tensors=tuple(file.tensors.values()),
        share=share,
        placement=placement or Placement.single(num_ranks),
        limits=limits,
        options=RankOptions(timeout_seconds=5.0),
        token=b"t" * 16,
    )


class Rank:
    """One rank's device with its shard loaded."""

    def __init__(
        self,
        file: GgufModel,
        spec: ModelSpec,
        share: RankShare,
        num_ranks: int,
        limits: Limits,
        open_device: Callable[[Limits], Device] = NumpyDevice,
        two_phase: bool = False,
        shares_routing: bool = False,
        placement: Placement | None = None,
    ) -> None:
        """num_ranks: of its stage."""
        self.two_phase, self.shares_routing, self.host_sums = two_phase, shares_routing, False
        self.wire: str | None = None  # of programs that move their partial sums
        self.hosts_touch_sums = False
        self.spec, self.share, self.num_ranks, self.limits = spec, share, num_ranks, limits
        self.shards: dict[str, Shard] = rank_shards(spec, share, file.tensors)
        self.device = open_device(limits)
        self.device.create_buffers(
            {
                **weight_buffers(self.shards, self.device.max_buffer_bytes),
                **cache_buffers(spec, share, limits),
                **state_buffers(spec, share, limits),
                **activation_buffers(spec, share, self.shards, limits),
            }
        )
        model_file = ModelFile(file.origin.parts)
        for stack in in_parts(stack_shards(self.shards), self.device.max_buffer_bytes).values():
            for _ in load_stack(self.device, model_file, stack, file.tensors):
                pass
        load = load_message(file, spec, share, num_ranks, limits, "loopback", placement)
        self.writer = StepWriter(self.device, model_file, load)
        self.copier = BlockCopier(self.device, load)

    def submit(self, step: Step) -> Program:
        program = self.prepared(step)
        self.device.submit(program, step.token_ids.size)
        return program

    def prepared(self, step: Step) -> Program:
        """Writes the step; returns its program, which is ready to be submitted."""
        self.writer.write(step)
        self.copier.copy(step)
        num_rows = step.token_ids.size
        num_logits = step.logit_rows.size if self.share.ends(self.spec) else 0
        buckets = (
            row_bucket(num_rows, self.limits.max_rows), row_bucket(num_logits, self.limits.max_logit_rows)
        )  # fmt: skip
        options = ProgramOptions(
            activations=self.limits.activations,
            two_phase=self.two_phase,
            shares_routing=self.shares_routing,
            host_sums=self.host_sums,
            of_prompts=step.of_prompts and self.device.tells_prompts_apart,
            in_one_part=self.writer.in_one_part,
            max_buffer=self.device.max_buffer_bytes,
            attends_by_matrices=self.limits.activations == "f16" and self.limits.kv_type in MATRIX_KV_TYPES,
        )
        program = build_program(self.spec, self.share, self.shards, self.num_ranks, *buckets, options)
        if self.wire is not None:
            program = with_moves(program, self.wire, self.hosts_touch_sums)
        self.device.prepare(program)
        return program

    def logits(self, step: Step) -> Floats:
        """This rank's slice [logit rows, vocabulary slice]."""
        shape = (step.logit_rows.size, len(self.share.vocabulary))
        return self.device.view("logits").view(np.float32)[: shape[0] * shape[1]].reshape(shape).copy()


class LocalChannel(Channel):
    """A channel whose ranks are devices of this process, which run each step as soon as it is sent.

    Ranks of a stage go in lock-step over one arena; the stages come one after another.
    """

    def __init__(self, ranks: Sequence[Rank], model_hash: str) -> None:
        self.num_ranks, self.clock = len(ranks), time.monotonic
        self._ranks, self._model_hash = ranks, model_hash
        self._logits: dict[int, list[Floats]] = {}  # of the last steps, by number
        self._stages = [
            list(stage) for _, stage in itertools.groupby(ranks, lambda rank: rank.share.first_layer)
        ]
        self._received = deque[tuple[int, Message]](
            (rank, Hello(PROTOCOL_VERSION, rank)) for rank in range(len(ranks))
        )
        slot_bytes = ranks[0].limits.max_rows * padded(ranks[0].spec.embedding_length) * 4
        for stage in self._stages:
            self.attach(stage, slot_bytes)

    def attach(self, stage: Sequence[Rank], slot_bytes: int) -> None:
        """Gives the devices of a stage the memory of partial sums."""
        arena = private_arena(len(stage), slot_bytes)
        for rank in stage:
            rank.device.attach_partials(arena, rank.share.index, len(stage))

    def send(self, rank: int, message: Message) -> None:
        if isinstance(message, FetchRows):
            self._received.append((rank, self._answer(rank, message)))
            return
        assert isinstance(message, Load), f"{type(message).__name__} is for all ranks"
        self._received.append((rank, Attached(self._model_hash, "device", "device", "")))

    def broadcast(self, message: Message) -> None:
        if isinstance(message, Step):
            self._run(message)
        for rank in range(self.num_ranks):
            self._received.append((rank, self._answer(rank, message)))

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        return self._received.popleft()

    def close(self) -> None:
        pass

    def _run(self, step: Step) -> None:
        count = step.token_ids.size * padded(self._ranks[0].spec.embedding_length)
        for number, stage in enumerate(self._stages):
            self._run_stage(step, stage)
            for rank in self._stages[number + 1] if number + 1 < len(self._stages) else ():
                handed_over = stage[0].device.view("residual").view(np.float32)[:count]
                rank.device.view("embedding").view(np.float32)[:count] = handed_over
        self._logits[step.number] = [rank.logits(step) for rank in self._ranks]
        self._logits.pop(step.number - most_in_flight(len(self._stages)), None)

    def _run_stage(self, step: Step, stage: list[Rank]) -> None:
        programs = [rank.submit(step) for rank in stage]
        num_segments = len(programs[0].segments)
        assert all(len(program.segments) == num_segments for program in programs)
        for segment in range(num_segments):
            for rank in stage:
                rank.device.finish(segment)
            for rank in stage if segment + 1 < num_segments else ():
                rank.device.release(segment + 1)

    def _answer(self, rank: int, message: Message) -> Message:
        if isinstance(message, Connect):
            apart = self._ranks[rank].device.tells_prompts_apart
            return Ready(device_bytes=1, sharing="import", tells_prompts_apart=apart)
        assert isinstance(message, Step | FetchRows)
        logits = self._logits[message.number][rank]
        if isinstance(message, FetchRows):
            return Rows(message.number, candidates.whole_rows(message.rows, logits))
        told = candidates.answer(message.wanted, logits, self._ranks[rank].share.vocabulary)
        whole = candidates.whole_rows(message.wanted.whole_rows, logits)
        return StepDone(message.number, whole, {}, answer=told)


class LocalEngine(Engine):
    """An engine on a LocalChannel, loaded."""

    def __init__(
        self,
        path: Path,
        weights: Sequence[float] = (1.0,),
        limits: Limits = LIMITS,
        open_device: Callable[[Limits], Device] = NumpyDevice,
        two_phase: bool = False,
        expert_split: str = "columns",
        shares_routing: bool = False,
        stages: Sequence[Stage] = (),
        open_channel: Callable[[Sequence[Rank], str], LocalChannel] = LocalChannel,
        expert_weights: Sequence[float] | None = None,
    ) -> None:
        file, spec = open_model(path)
        if not spec.is_recurrent:  # as the launcher does
            limits = dataclasses.replace(limits, num_slots=0)
        plan = make_plan(spec, weights, expert_split, stages, expert_weights)
        placement = placed(plan, (HEAD,) * len(plan))
        self.ranks = [
            Rank(
                file,
                spec,
                share,
                len(placement.group(share.rank)),
                limits,
                open_device,
                two_phase,
                shares_routing,
                placement,
            )
            for share in plan
        ]
        channel = open_channel(self.ranks, file.origin.model_hash)
        config = EngineConfig(RankOptions(), limits, 60.0)
        super().__init__(channel, file.origin, file.tensors.values(), spec, plan, config, placement)
        self.load(lambda rank, progress: None)

    def logits(self, step: Step) -> Floats:
        """Runs a step; returns all its logits [logit rows, vocabulary]."""
        return self.run(dataclasses.replace(step, wanted=every_row(step.logit_rows.size))).rows
