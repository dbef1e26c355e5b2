"""The program of a transformer's step: layer by layer, by the features of its spec."""

from __future__ import annotations

from collections.abc import Mapping

from tplaunch.coordinator.model.spec import FeedForwardSpec, LayerSpec, ModelSpec
from tplaunch.coordinator.split.plan import LayerShare, RankShare
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.feed_forward import activated_name
from tplaunch.worker.buffers.stacks import GATE_UP, SHARED_GATE_UP, stacked_tensors
from tplaunch.worker.ops.common import Activate
from tplaunch.worker.ops.experts import RowGate
from tplaunch.worker.ops.logits import LogitGroups
from tplaunch.worker.programs.attention import attend, write_cache
from tplaunch.worker.programs.builder import ProgramBuilder
from tplaunch.worker.programs.experts import add_experts, add_routing
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.recurrent import project_output, write_state

DEFAULT = ProgramOptions()


def build_program(
    spec: ModelSpec,
    share: RankShare,
    shards: Mapping[str, Shard],
    num_ranks: int,
    rows: int,
    logit_rows: int,
    options: ProgramOptions = DEFAULT,
) -> Program:
    """The program of one rank. An all-reduce for each part of a layer, or one for both if they are parallel.
    One rank alone needs none and gets one segment.

    It computes the layers of the rank's stage, from what lies in "embedding" on; a stage before the last one
    leaves the residual stream in "residual".
    """
    builder = ProgramBuilder(spec, share, shards, num_ranks, rows, logit_rows, options)
    if spec.embedding_norm and share.begins:
        builder.start(spec.embedding_norm)
    last = spec.num_layers - 1
    for index, layer, held in share.held(spec):
        if index == last and not logit_rows:
            _fill_caches(builder, index, layer, held)  # nothing reads what would follow
        else:
            _layer(builder, index, layer, held)
    if not share.ends(spec):
        builder.norm("", "residual")
    elif logit_rows:
        builder.norm(spec.output_norm, "final", "logit_rows")
        if len(share.vocabulary):
            scale, softcap = spec.logit_scale, spec.logit_softcap
            builder.matmul("output", "final", "logits", "logit_rows", scale=scale, softcap=softcap)
            if options.groups_logits:
                builder.add(LogitGroups(len(share.vocabulary)))
    return builder.finished()


def build_sums(
    spec: ModelSpec,
    share: RankShare,
    shards: Mapping[str, Shard],
    num_ranks: int,
    rows: int,
    options: ProgramOptions = DEFAULT,
    num_all_reduces: int = 2,
) -> Program:
    """Nothing but all-reduces, an even number of them, and what adds them up: for measuring these."""
    builder = ProgramBuilder(spec, share, shards, num_ranks, rows, 0, options)
    for _ in range(num_all_reduces):
        builder.exchange()
        builder.norm(spec.output_norm if share.ends(spec) else "", "normed")
    return builder.finished()


def _fill_caches(builder: ProgramBuilder, index: int, layer: LayerSpec, share: LayerShare) -> None:
    """Writes the parts of a layer that later steps read."""
    builder.norm(_named(index, builder.spec.block.attention_norm), "normed")
    if layer.attention is not None:
        write_cache(builder, index, layer.attention, share)
    if layer.recurrent is not None:
        write_state(builder, index, layer.recurrent, share)


def _layer(builder: ProgramBuilder, index: int, layer: LayerSpec, share: LayerShare) -> None:
    block = builder.spec.block
    parallel = block.parallel and layer.attention is not None and layer.has_feed_forward
    if layer.attention is not None:
        builder.norm(_named(index, block.attention_norm), "normed")
        write_cache(builder, index, layer.attention, share)
        attend(builder, index, layer.attention, share)
        if not parallel:
            _end_part(builder, index, block.attention_post_norm)
    if layer.recurrent is not None:
        builder.norm(_named(index, block.attention_norm), "normed")
        write_state(builder, index, layer.recurrent, share)
        project_output(builder, index, layer.recurrent, share, builder.num_ranks)
        _end_part(builder, index, block.attention_post_norm)
    if layer.has_feed_forward:
        if not parallel or block.feed_forward_norm:
            builder.norm(_named(index, block.feed_forward_norm), "normed")
        if layer.experts is not None:
            add_routing(builder, index, layer.experts)
        if layer.feed_forward is not None:
            _feed_forward(builder, index, layer.feed_forward, share, accumulates=parallel)
        if layer.experts is not None:
            accumulates = parallel or layer.feed_forward is not None
            add_experts(builder, index, layer.experts, share, accumulates=accumulates)
        _end_part(builder, index, block.feed_forward_post_norm)


def _named(index: int, name: str) -> str:
    """A layer's tensor; "" where the layer has none."""
    return f"blk.{index}.{name}" if name else ""


def _end_part(builder: ProgramBuilder, index: int, post_norm: str) -> None:
    builder.exchange()
    if post_norm:
        builder.post_norm(_named(index, post_norm), "block")


def _feed_forward(
    builder: ProgramBuilder,
    index: int,
    feed_forward: FeedForwardSpec,
    share: LayerShare,
    *,
    accumulates: bool,
) -> None:
    """Feeds the normed rows forward into the partial sums, which may hold the other part's already."""
    layer, columns, suffix = f"blk.{index}", len(share.feed_forward), feed_forward.suffix
    down, activation, output = (
        f"{layer}.ffn_down{suffix}",
        feed_forward.activation,
        activated_name(builder.spec, feed_forward),
    )
    if columns:
        offset = builder.shards[down + ".weight"].column_offset
        group = SHARED_GATE_UP if suffix else GATE_UP
        stacked, gated = stacked_tensors(layer, group, builder.shards), feed_forward.gated
        if len(stacked) == 1 and not feed_forward.has_divisors:
            builder.matmul(stacked[0], "normed", output, offset=offset, activation=activation, gated=gated)
        else:
            builder.products(stacked, "gate_up")
            divisors = f"{layer}.ffn.act.scales" if feed_forward.has_divisors else None
            builder.add(Activate(columns, offset, activation, gated, divisors, output))
        if feed_forward.row_gate:
            gate, width = f"{layer}.{feed_forward.row_gate}", builder.spec.embedding_length
            builder.add(RowGate(gate, width, "normed", output, offset, columns))
    builder.partial(down, output, accumulates=accumulates)
