"""Which layers have windows, which rope and which norm, by metadata and tensors, as llama.cpp has it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from tests.models import tensor_infos, tensor_shapes
from tplaunch.collectives import Collective
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.attention import QueryKeyNorm, Temperature, Window
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.worker.device import Device
from tplaunch.worker.ops.attention import (
    HEAD_SUMS,
    Attention,
    AttentionCombine,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
)
from tplaunch.worker.programs.program import Phase, Program
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.step.rope_tables import temperatures
from tplaunch.worker.step.segments import SegmentRunner


def spec_of(architecture: str, layers: int, shapes: Any = None, **changes: Any) -> ModelSpec:
    """Returns the spec of a model of eight heads of 16 elements, with these keys; shapes: of its tensors."""
    keys: dict[str, Any] = {
        "block_count": layers,
        "context_length": 131072,
        "embedding_length": 256,
        "feed_forward_length": 64,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "logit_scale": 1.0,
        **changes,
    }
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    tensors = {"token_embd.weight": TensorInfo("token_embd.weight", "F32", (48, 256), 0, 0)}
    for name, shape in (shapes or {}).items():
        tensors[name] = TensorInfo(name, "F32", shape, 0, 0)
    return model_spec({"general.architecture": architecture, **metadata}, tensors)


def windows(spec: ModelSpec) -> str:
    """Returns a letter for each layer: S for one with a window, f for one that sees all."""
    return "".join("S" if layer.window is not None else "f" for layer in spec.attentions)


WINDOW = "attention.sliding_window"
PATTERN = "attention.sliding_window_pattern"


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("gemma2", {}, "SfSfSfSf"),
        ("gemma3", {WINDOW: 512}, "SSSSSfSS"),
        ("gemma3", {}, "ffffffff"),
        ("gemma3", {WINDOW: 512, PATTERN: 3}, "SSfSSfSS"),
        ("gemma3", {WINDOW: 512, PATTERN: [False, True] * 4}, "fSfSfSfS"),
        ("gemma3", {WINDOW: 512, PATTERN: 1}, "ffffffff"),
        ("cohere2", {WINDOW: 512}, "SSSfSSSf"),
        ("olmo2", {}, "ffffffff"),
        ("olmo2", {WINDOW: 512}, "SSSfSSSf"),
        ("exaone4", {WINDOW: 512}, "ffffffff"),
        ("llama4", {}, "SSSfSSSf"),
        ("llama4", {WINDOW: 0}, "ffffffff"),
        ("gpt-oss", {WINDOW: 128}, "SfSfSfSf"),
        ("llama", {WINDOW: 512}, "ffffffff"),
        ("phi3", {WINDOW: 512}, "ffffffff"),
    ],
)
def test_layers_with_windows(architecture: str, changes: dict[str, Any], expected: str) -> None:
    assert windows(spec_of(architecture, 8, **changes)) == expected


def test_default_windows() -> None:
    assert spec_of("gemma2", 2).attentions[0].window == Window(4096)
    exaone4 = spec_of("exaone4", 64)
    assert exaone4.attentions[0].window == Window(4096)
    assert windows(exaone4) == "SSSf" * 16
    assert [layer.rope for layer in exaone4.attentions] == [0, 0, 0, None] * 16


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({WINDOW: -1}, "sliding_window is -1; a number from 0 to"),
        ({WINDOW: 512, PATTERN: [1, 0]}, "pattern is 'of 2 numbers'; one for each of 8 layers is needed"),
        ({WINDOW: 512, PATTERN: -2}, "pattern is -2; a number from 0 to"),
    ],
)
def test_impossible_windows_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        spec_of("gemma3", 8, **changes)


def test_layers_with_windows_turn_by_a_rope_of_their_own() -> None:
    scaling = {"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    spec = spec_of("gemma3", 6, **{WINDOW: 512}, **scaling)
    assert [(rope.base, rope.scale) for rope in spec.ropes] == [(1e6, 0.125), (1e4, 1.0)]
    assert [layer.rope for layer in spec.attentions] == [1, 1, 1, 1, 1, 0]
    assert spec_of("gemma3", 6, **{WINDOW: 512, "rope.freq_base_swa": 5e4}).ropes[1].base == 5e4
    assert len(spec_of("gemma3", 6, **scaling).ropes) == 1  # no windows
    yarn = {**scaling, "rope.scaling.type": "yarn"}
    full, windowed = spec_of("olmo2", 4, **{WINDOW: 512}, **yarn).ropes
    assert full.yarn is not None and full.magnitude > 1
    assert (windowed.yarn, windowed.magnitude, windowed.scale) == (None, 1.0, 1.0)


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("smollm3", {}, [0, 0, 0, None, 0]),
        ("cohere2", {WINDOW: 512}, [0, 0, 0, None, 0]),
        ("exaone4", {WINDOW: 512}, [0, 0, 0, 0, 0]),
        ("llama4", {}, [0, 0, 0, None, 0]),
        ("llama4", {WINDOW: 0}, [0, 0, 0, 0, 0]),
    ],
)
def test_layers_without_rope(architecture: str, changes: dict[str, Any], expected: list[Any]) -> None:
    assert [layer.rope for layer in spec_of(architecture, 5, **changes).attentions] == expected


@pytest.mark.parametrize(
    ("architecture", "layers", "changes", "length"),
    [
        ("gemma2", 46, {}, 32),
        ("gemma2", 26, {}, 16),
        ("gemma3", 62, {}, 32),
        ("granite", 2, {"attention.scale": 0.5}, 4),
        ("llama", 2, {}, 16),
    ],
)
def test_scales(architecture: str, layers: int, changes: dict[str, Any], length: int) -> None:
    assert spec_of(architecture, layers, **changes).attentions[0].scale == pytest.approx(length**-0.5)


def test_softcaps_alibi_and_clamps() -> None:
    assert spec_of("gemma2", 2).attentions[0].softcap == 50
    assert spec_of("gemma2", 2, attn_logit_softcapping=30.0).attentions[0].softcap == 30
    assert spec_of("gemma3", 2, attn_logit_softcapping=30.0).attentions[0].softcap == 0
    assert spec_of("bloom", 2).attentions[0].alibi_bias == 8
    assert [spec_of("baichuan", layers).attentions[0].alibi_bias for layers in (32, 40)] == [0, 8]
    mpt = spec_of("mpt", 2, **{"attention.max_alibi_bias": 4.0, "attention.clamp_kqv": 6.0}).attentions[0]
    assert (mpt.alibi_bias, mpt.clamp) == (4, 6)


@pytest.mark.parametrize(
    ("architecture", "shape", "expected"),
    [
        ("qwen3", (16,), QueryKeyNorm()),
        ("olmo2", (128,), QueryKeyNorm(span="row")),
        ("hunyuan-dense", (16,), QueryKeyNorm(after_rope=True)),
        ("stablelm", (8, 16), QueryKeyNorm("layer", "heads")),
        ("command-r", (8, 16), QueryKeyNorm("layer", "heads")),
        ("mpt", (128,), QueryKeyNorm("layer", "row")),
        ("mpt", None, None),
        ("stablelm", None, None),
        ("glm4moe", (16,), QueryKeyNorm()),
        ("glm4moe", None, None),
        ("llama", (16,), None),
    ],
)
def test_norms_of_queries_and_keys_have_their_architectures_span(
    architecture: str, shape: tuple[int, ...] | None, expected: QueryKeyNorm | None
) -> None:
    shapes = {f"blk.{index}.attn_q_norm.weight": shape for index in (0, 1) if shape is not None}
    spec = spec_of(architecture, 2, shapes)
    assert [layer.head_norm for layer in spec.attentions] == [expected] * 2


def test_llama_4_sees_chunks_and_grows_the_queries_of_layers_without_rope() -> None:
    spec = spec_of("llama4", 4)
    assert spec.attentions[0].window == Window(8192, chunked=True)
    assert spec_of("llama4", 4, **{"attention.chunk_size": 4096}).attentions[0].window == Window(8192, True)
    assert spec.temperature == Temperature(8192, 0.1, 1.0)
    assert [layer.has_temperature for layer in spec.attentions] == [False, False, False, True]
    assert [layer.head_norm is not None for layer in spec.attentions] == [True, True, True, False]
    assert spec_of("llama4", 4, **{WINDOW: 0}).temperature is None


def test_mistral_3_may_grow_the_queries_of_all_layers() -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0}
    yarn["rope.scaling.original_context_length"] = 16384
    assert spec_of("mistral3", 2, **yarn).temperature is None
    spec = spec_of("mistral3", 2, **yarn, **{"attention.temperature_scale": 0.1})
    assert spec.temperature == Temperature(16384, 0.1, 0.0)
    assert all(layer.has_temperature for layer in spec.attentions)


def test_temperatures() -> None:
    """At the first position, just before the length, there, and at seven times that."""
    found = temperatures(Temperature(8192, 0.1, 1.0), np.array([0, 8190, 8191, 8192 * 7 - 1], np.int32))
    np.testing.assert_allclose(found, [1, 1, 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(8)])


def programs(spec: ModelSpec, num_ranks: int) -> list[Program]:
    tensors = tensor_infos(tensor_shapes(spec))
    return [
        build_program(spec, share, rank_shards(spec, share, tensors), num_ranks, 4, 1)
        for share in make_plan(spec, [1.0] * num_ranks)
    ]


def row_normed() -> ModelSpec:
    return spec_of("olmo2", 2, {f"blk.{index}.attn_q_norm.weight": (128,) for index in (0, 1)})


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_norms_over_all_heads_exchange_short_rows(num_ranks: int) -> None:
    """One more a layer, of four floats a row, on every rank in the same place; parities take turns."""
    found = programs(row_normed(), num_ranks)
    for program in found:
        cuts = program.segments[:-1]
        assert [cut.row_length for cut in cuts] == [HEAD_SUMS, 0, 0] * 2
        assert [cut.parity for cut in cuts] == [0, 1] * 3
        for cut in cuts:
            assert isinstance(cut.ops[-1], HeadSums) == (cut.row_length > 0)
            assert cut.phase is Phase.ONE_SHOT


def test_alone_a_rank_exchanges_nothing() -> None:
    (program,) = programs(row_normed(), 1)
    assert len(program.segments) == 1
    kinds = [type(op) for op in program.segments[0].ops if isinstance(op, HeadSums | HeadNorm | RopeCache)]
    assert kinds == [HeadSums, HeadNorm, RopeCache] * 2


def test_replicated_keys_are_counted_once() -> None:
    """Five ranks, two KV heads of four queries each."""
    ops = [op for program in programs(row_normed(), 5) for op in program.segments[0].ops]
    sums = [op for op in ops if isinstance(op, HeadSums)]
    assert sum(op.heads.num_heads for op in sums) == 8
    assert sum(op.heads.num_kv_heads - op.skips_first_key for op in sums) == 2


def test_short_rows_move_few_bytes() -> None:
    """The collective adds up only the bytes of three rows of a residual stream of 32."""

    class Counting:
        def __init__(self) -> None:
            self.calls: list[tuple[int, int]] = []

        def all_reduce(self, _sequence: int, parity: int, count: int, **_way: bool) -> None:
            self.calls.append((parity, count))

    class Idle:
        def submit(self, _program: Program, _num_rows: int) -> None: ...
        def finish(self, _segment: int) -> None: ...
        def release(self, _segment: int) -> None: ...

    collective = Counting()
    runner = SegmentRunner(cast(Device, Idle()), cast(Collective, collective))
    runner.run(programs(row_normed(), 2)[0], 3, 32, lambda _: None)
    assert collective.calls == [(0, 12), (1, 96), (0, 96), (1, 12), (0, 96), (1, 96)]


def test_sinks_go_with_their_heads() -> None:
    spec = spec_of("gpt-oss", 1)
    tensors = tensor_infos(tensor_shapes(spec))
    shares = make_plan(spec, [1, 1, 1])
    spans = [rank_shards(spec, share, tensors)["blk.0.attn_sinks.weight"].columns for share in shares]
    assert spans == [share.layers[0].heads for share in shares]
    sinks = [
        op.sinks for s in programs(spec, 1)[0].segments for op in s.ops if isinstance(op, AttentionCombine)
    ]
    assert sinks == ["blk.0.attn_sinks.weight"]


def test_norms_behind_the_rope_turn_in_place_first() -> None:
    spec = spec_of("hunyuan-dense", 1, {"blk.0.attn_q_norm.weight": (16,)})
    ops = [op for segment in programs(spec, 1)[0].segments for op in segment.ops]
    order = [op for op in ops if isinstance(op, Rotate | HeadNorm | RopeCache)]
    assert [type(op) for op in order] == [Rotate, HeadNorm, RopeCache]
    cache = order[2]
    assert isinstance(cache, RopeCache) and cache.rotation.dimension == 0


def test_a_rank_of_one_kv_head_looks_at_its_own_heads_only() -> None:
    spec = spec_of("llama", 1)
    for program in programs(spec, 4):
        attention = next(op for s in program.segments for op in s.ops if isinstance(op, Attention))
        assert (attention.num_heads, attention.first_head, attention.heads_per_kv_head) == (2, 0, 2)
