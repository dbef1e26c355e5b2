"""An engine on a fake channel, and specs of models that keep what a test wants of their sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tests.models import make_spec
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.model.attention import Window
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.fake_model import logits
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import HEAD
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.coordinator.split.stages import cut_layers, cut_ranks, make_stages

VOCABULARY_SIZE = 64


def spec_of(kinds: LayerKinds, vocabulary_size: int = VOCABULARY_SIZE) -> ModelSpec:
    """A model whose layers keep just that."""
    spec = make_spec(vocabulary_size=vocabulary_size, num_layers=1)
    (layer,) = spec.layers
    assert layer.attention is not None
    layers: list[LayerSpec] = [layer] if kinds.sees_all else []
    if kinds.window:
        windowed = dataclasses.replace(layer.attention, window=Window(kinds.window))
        layers.append(dataclasses.replace(layer, attention=windowed))
    if kinds.has_states:
        recurrent = RecurrentSpec("convolution", kernel=3, num_heads=32)
        layers.append(dataclasses.replace(layer, attention=None, recurrent=recurrent))
    return dataclasses.replace(spec, layers=tuple(layers))


def fake_engine(
    limits: Limits,
    kinds: LayerKinds,
    num_ranks: int = 1,
    vocabulary_size: int = VOCABULARY_SIZE,
    num_stages: int = 1,
    tells_prompts_apart: bool = False,
) -> tuple[Engine, FakeChannel]:
    """An engine that is loaded. num_ranks: of each stage."""
    spec = spec_of(kinds, vocabulary_size)
    spec = dataclasses.replace(spec, layers=spec.layers * num_stages)
    weights = [1.0] * num_ranks * num_stages
    stages = make_stages(
        cut_ranks((HEAD,) * len(weights), num_stages), cut_layers([1.0] * spec.num_layers, [1.0] * num_stages)
    )
    channel = FakeChannel(len(weights), tells_prompts_apart)
    config = EngineConfig(RankOptions(timeout_seconds=5.0), limits, load_timeout_seconds=5.0)
    plan = make_plan(spec, weights, stages=stages)
    engine = Engine(channel, Origin((), "fake"), (), spec, plan, config)
    engine.load(lambda rank, progress: None)
    return engine, channel


def greedy(
    prompt: Sequence[int],
    kinds: LayerKinds,
    count: int,
    vocabulary_size: int = VOCABULARY_SIZE,
    tells_prompts_apart: bool = False,
) -> list[int]:
    """The likeliest tokens behind a prompt, without any memory."""
    tokens = list(prompt)
    num_prompt = len(tokens) if tells_prompts_apart else None
    for _ in range(count):
        tokens.append(int(logits(tokens, kinds, vocabulary_size, num_prompt)[-1].argmax()))
    return tokens[len(prompt) :]
