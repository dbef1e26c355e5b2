"""Shards that lie one after another in one device buffer, so that one product multiplies by all of them.

A stack's rows are its shards' rows in order; a stack of biases or scales has their elements in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.formats import FORMATS

# Tensors of a layer that multiply the same input, in the order in which they are stacked.
QKV, GATE_UP = ("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up")
RECURRENT_INPUTS = ("ssm_in", "attn_qkv", "attn_gate", "ssm_ba", "ssm_alpha", "ssm_beta")
SHARED_GATE_UP, EXPERTS_GATE_UP = ("ffn_gate_shexp", "ffn_up_shexp"), ("ffn_gate_exps", "ffn_up_exps")
GROUPS = (QKV, GATE_UP, SHARED_GATE_UP, EXPERTS_GATE_UP, RECURRENT_INPUTS)


@dataclass(frozen=True)
class Stack:
    """One buffer of weights. Most hold a single shard."""

    name: str  # of the device's buffer
    shards: tuple[Shard, ...]

    @property
    def type(self) -> str:
        return self.shards[0].type

    @property
    def is_vector(self) -> bool:
        return self.name.endswith((".bias", ".scale"))

    @property
    def rows(self) -> int:
        return 1 if self.is_vector else sum(shard.num_rows for shard in self.shards)

    @property
    def padded_columns(self) -> int:
        if self.is_vector:
            return padded(sum(len(shard.columns) * shard.num_rows * shard.repeats for shard in self.shards))
        return self.shards[0].padded_columns

    @property
    def nbytes(self) -> int:
        """The bytes of the stack on the device."""
        return FORMATS[self.type].nbytes(self.rows, self.padded_columns)


def stack_shards(shards: Mapping[str, Shard]) -> dict[str, Stack]:
    """Every buffer of weights of a rank, by name."""
    members: dict[str, list[Shard]] = {}
    for name, shard in shards.items():
        members.setdefault(_stack_name(name, shards), []).append(shard)
    return {name: Stack(name, tuple(stacked)) for name, stacked in members.items()}


def stacked_tensors(layer: str, group: tuple[str, ...], shards: Mapping[str, Shard]) -> list[str]:
    """Returns the stacks of a group's matrices in one layer: neighbours of one layout share a stack.

    The names are those of tensors, without ".weight": "blk.0.attn_q+attn_k", "blk.0.attn_v".
    """

    def layout(kind: str) -> tuple[object, ...]:
        weight = shards[f"{layer}.{kind}.weight"]
        has = (f"{layer}.{kind}.{vector}" in shards for vector in ("bias", "scale"))
        return weight.type, weight.columns, *has

    present = [kind for kind in group if f"{layer}.{kind}.weight" in shards]
    return [f"{layer}.{'+'.join(alike)}" for _, alike in itertools.groupby(present, layout)]


def _stack_name(name: str, shards: Mapping[str, Shard]) -> str:
    whole, _, suffix = name.rpartition(".")
    tensor = whole.partition("#")[0]  # NAME#1 is a piece that lies behind NAME
    layer, _, kind = tensor.rpartition(".")
    for group in GROUPS:
        if kind in group:
            stacked = stacked_tensors(layer, group, shards)
            return next(
                f"{found}.{suffix}" for found in stacked if kind in found[len(layer) + 1 :].split("+")
            )
    return f"{tensor}.{suffix}"
