"""Every buffer of a rank: name, size, place. Both allocation and `tplaunch plan` read this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.likeliest import num_groups
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError, RankShare, padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.attention import QUERY_LATENT, cache_names, latent_lengths, qkv_length
from tplaunch.worker.buffers.cuts import attention_slots
from tplaunch.worker.buffers.feed_forward import activated_lengths
from tplaunch.worker.buffers.recurrent import convolved_length, projected_length
from tplaunch.worker.buffers.stack_parts import WHOLE, in_parts
from tplaunch.worker.buffers.stacks import GATE_UP, SHARED_GATE_UP, stack_shards
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.ops.common import QUANTIZED, QUANTIZED_PAIRS
from tplaunch.worker.ops.experts import HeldExperts, route_length
from tplaunch.worker.ops.logits import LOGIT_GROUPS
from tplaunch.worker.ops.quantized import row_words


class Placement(Enum):
    """The side that touches a buffer besides the kernels."""

    WEIGHTS = "weights"  # the host writes every byte of it once; until then it holds anything
    DEVICE = "device"  # no one
    UPLOAD = "upload"  # the host writes it every step
    READBACK = "readback"  # the host reads it every step


@dataclass(frozen=True)
class Buffer:
    """Zero-filled unless for weights. Activations are float32 [rows, row_length]; others have length 0."""

    nbytes: int
    placement: Placement = Placement.DEVICE
    row_length: int = 0


def activation_buffers(
    spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard], limits: Limits
) -> dict[str, Buffer]:
    """Returns the buffers that a step works in: each as large as the layer that needs most."""
    width, ends = padded(spec.embedding_length), share.ends(spec)

    def rows(length: int, placement: Placement = Placement.DEVICE, count: int = limits.max_rows) -> Buffer:
        return Buffer(count * length * 4, placement, length)

    # Where gates and ups are stacked, one product makes both and what comes of them.
    gates = [f".{group[0]}.weight" for group in (GATE_UP, SHARED_GATE_UP)]
    gates_apart = any(name.endswith((*gates, ".ffn.act.scales")) for name in stack_shards(shards))
    activated = activated_lengths(spec, share, shards)
    block = spec.block
    has_post_norms = bool(block.attention_post_norm or block.feed_forward_post_norm)
    buffers = {
        "step": Buffer(StepLayout(limits).num_words * 4, Placement.UPLOAD),
        "rope": rows(spec.rope_length, Placement.UPLOAD),
        "embedding": rows(width, Placement.UPLOAD),
        "hidden": rows(width),
        "normed": rows(width),
        "block": rows(width if has_post_norms else 0),
        **_attention_buffers(spec, share, shards, limits),
        "gate_up": rows(2 * max(len(held.feed_forward) for held in share.layers) if gates_apart else 0),
        **{name: rows(length) for name, length in activated.items()},
        **{name: rows(length) for name, length in _recurrent_lengths(spec, share, shards).items()},
        **_expert_buffers(spec, share, limits, _input_length(shards, "ffn_down_exps")),
        "final": rows(width if ends else 0, count=limits.max_logit_rows),
        "logits": rows(len(share.vocabulary), Placement.READBACK, limits.max_logit_rows),
    }
    if not ends:
        buffers["residual"] = rows(width, Placement.READBACK)  # for the next stage
    if limits.may_be_activations != "f32":
        inputs = ("normed", "attended", *activated, "gated", QUERY_LATENT)
        longest = max(buffers[name].row_length for name in inputs if name in buffers)
        buffers[QUANTIZED] = rows(
            row_words(longest, limits.may_be_activations), count=max(limits.max_rows, limits.max_logit_rows)
        )
    return buffers


def logit_buffers(share: RankShare, limits: Limits) -> dict[str, Buffer]:
    """Returns what a device needs that looks through its logits: a part of them, in the host's memory."""
    length = 2 * num_groups(len(share.vocabulary))
    return {LOGIT_GROUPS: Buffer(limits.max_logit_rows * length * 4, Placement.READBACK, length)}


def _input_length(shards: Mapping[str, Shard], kind: str) -> int:
    """Elements of a row that the matrices of a kind multiply, in the layer that has most."""
    found = (shard for name, shard in shards.items() if name.endswith(f".{kind}.weight"))
    return max((shard.padded_columns for shard in found), default=0)


def _attention_buffers(
    spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard], limits: Limits
) -> dict[str, Buffer]:
    attentions = [
        (layer.attention, held) for _, layer, held in share.held(spec) if layer.attention is not None
    ]
    lengths = {
        "qkv": max((qkv_length(*part) for part in attentions), default=0),
        "query": max((len(held.heads) * one.key_length for one, held in attentions), default=0),
        "attended": _input_length(shards, "attn_output"),
    }
    for one, held in attentions:
        of_latent = latent_lengths(one.latent, len(held.heads)) if one.latent else {}
        lengths |= {name: max(length, lengths.get(name, 0)) for name, length in of_latent.items()}
    slots = attention_slots(limits)
    sums_length = max((len(held.heads) * one.value_length for one, held in attentions), default=0)
    num_heads = max((len(held.heads) for _, held in attentions), default=0)
    return {
        **{name: Buffer(limits.max_rows * length * 4, row_length=length) for name, length in lengths.items()},
        "attention_sums": Buffer(slots * sums_length * 4),
        "attention_scales": Buffer(slots * num_heads * 8),
    }


def _recurrent_lengths(spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard]) -> dict[str, int]:
    """Elements of a row of what recurrent layers work in."""
    recurrent = [
        (layer.recurrent, held) for _, layer, held in share.held(spec) if layer.recurrent is not None
    ]
    with_heads = [(layer, held) for layer, held in recurrent if layer.has_heads]
    return {
        "projected": max((projected_length(*part) for part in recurrent), default=0),
        "convolved": max((convolved_length(*part) for part in with_heads), default=0),
        "recurrence_output": max(
            (len(held.recurrent) * layer.head_length for layer, held in with_heads), default=0
        ),
        "gated": max(_input_length(shards, kind) for kind in ("ssm_out", "shortconv.out_proj")),
    }


def _expert_buffers(
    spec: ModelSpec, share: RankShare, limits: Limits, activated_length: int
) -> dict[str, Buffer]:
    """Returns the buffers that experts work in; a pair is a row with one of its experts."""
    if not spec.experts:
        return {}
    count, used = (max(getattr(experts, name) for experts in spec.experts) for name in ("count", "used"))
    held = HeldExperts(used, 0, max(len(layer.experts) for layer in share.layers))
    output_length = padded(spec.embedding_length) if held.count else 0

    def rows(length: int, per_row: int = 1) -> Buffer:
        return Buffer(limits.max_rows * per_row * length * 4, row_length=length)

    activations = limits.may_be_activations
    rounds = activations != "f32"
    return {
        **({QUANTIZED_PAIRS: rows(row_words(activated_length, activations), used)} if rounds else {}),
        "router": rows(count if share.holds_experts else 0),
        "routes": rows(route_length(used)),
        "expert_tiles": Buffer(held.tile_bytes(limits.max_rows) if held.count else 0),
        "expert_activated": rows(activated_length, used),
        "expert_outputs": rows(output_length, used),
    }


def cache_buffers(spec: ModelSpec, share: RankShare, limits: Limits) -> dict[str, Buffer]:
    """The paged KV cache: per layer the cells of keys and values, as coordinator/kv_types.py lays them.

    Raises PlanError where a layer's pool has no blocks.
    """
    kv_type = KV_TYPES[limits.kv_type]
    buffers = {}
    for index, layer, held in share.held(spec):
        if layer.attention is None:
            continue
        windowed = layer.attention.window is not None
        if not limits.pool(windowed):
            name = "num_window_blocks" if windowed else "num_blocks"
            raise PlanError(f"layer {index} keeps keys and values, but {name} is 0")
        num_cells = limits.pool(windowed) * limits.block_length * len(held.kv_heads)
        key, value = cache_names(index, layer.attention)
        buffers[key] = Buffer(kv_type.nbytes(num_cells, layer.attention.key_length))
        if value != key:
            buffers[value] = Buffer(kv_type.nbytes(num_cells, layer.attention.value_length))
    return buffers


def weight_buffers(shards: Mapping[str, Shard], most: int = WHOLE) -> dict[str, Buffer]:
    """The repacked weights, in planes; matrices of more bytes than `most` in several buffers."""
    stacks = in_parts(stack_shards(shards), most)
    return {name: Buffer(stack.nbytes, Placement.WEIGHTS) for name, stack in stacks.items()}
