"""Cuts the tensors of experts for a rank: some columns of each expert, or some experts whole."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.split.cutter import Cutter, Rows
from tplaunch.coordinator.split.plan import LayerShare, Span
from tplaunch.coordinator.split.shards import Shard

EXPERT_BIAS = "exp_probs_b.bias"  # what is added to the routers' probabilities to choose by


@dataclass(frozen=True)
class ExpertCut:
    """The part of a layer's experts that a rank holds."""

    count: int  # experts of the layer
    experts: Span
    columns: Span  # of each of these
    length: int  # columns of an expert


def cut_experts(
    cutter: Cutter, prefix: str, experts: ExpertsSpec, share: LayerShare, *, routes: bool
) -> None:
    """A rank has the whole router, or where it does not route rows nothing of it."""
    router = Span(0, experts.count if routes else 0)
    cutter.column_parallel(prefix + "ffn_gate_inp", Rows(prefix + "ffn_gate_inp", experts.count), router)
    if routes and prefix + EXPERT_BIAS in cutter.tensors:
        cutter.vector(prefix + EXPERT_BIAS, experts.count)
    cut = ExpertCut(experts.count, share.experts, share.expert_columns, experts.length)
    names, fused = (prefix + "ffn_gate_exps", prefix + "ffn_up_exps"), prefix + "ffn_gate_up_exps"
    is_fused = fused + ".weight" in cutter.tensors
    for index, name in enumerate(names):
        total = experts.length * (len(names) if is_fused else 1)
        rows = Rows(fused if is_fused else name, total, index * experts.length if is_fused else 0)
        _column_parallel(cutter, name, rows, cut)
    _row_parallel(cutter, prefix + "ffn_down_exps", cut)


def _column_parallel(cutter: Cutter, name: str, rows: Rows, cut: ExpertCut) -> None:
    """Cuts every expert as Cutter.column_parallel does. `rows` are one expert's."""
    tensor = cutter.find(rows.tensor + ".weight", (cut.count, rows.total, cutter.width))
    held = Span(rows.first + cut.columns.start, rows.first + cut.columns.stop)
    cutter.shards[name + ".weight"] = Shard(
        tensor.name, tensor.type, held, Span(0, cutter.width), 0, cut.experts, rows.total
    )
    _bias(cutter, rows.tensor + ".bias", held, rows.total, cut, name + ".bias")
    _product_scales(cutter, rows.tensor, name, cut)


def _row_parallel(cutter: Cutter, name: str, cut: ExpertCut) -> None:
    """Cuts every expert as Cutter.row_parallel does; the rank that has its first column adds the bias."""
    tensor = cutter.find(name + ".weight", (cut.count, cutter.width, cut.length))
    held, offset = cutter.touched(name, cut.columns, cut.length)
    rows = Span(0, cutter.width)
    cutter.shards[tensor.name] = Shard(
        tensor.name, tensor.type, rows, held, offset, cut.experts, cutter.width
    )
    if cut.columns.start == 0:
        _bias(cutter, name + ".bias", rows, cutter.width, cut, name + ".bias")
    _product_scales(cutter, name, name, cut)


def _product_scales(cutter: Cutter, tensor: str, name: str, cut: ExpertCut) -> None:
    """Adds the scales of the products, as Cutter.product_scale does: one number for each expert."""
    if tensor + ".scale" in cutter.tensors:
        cutter.part_of_vector(tensor + ".scale", cut.experts, cut.count, name + ".scale")


def _bias(cutter: Cutter, name: str, span: Span, length: int, cut: ExpertCut, device_name: str) -> None:
    if name not in cutter.tensors:
        return
    cutter.find_floats(name, (cut.count, length))
    cutter.shards[device_name] = Shard(name, "F32", Span(0, 1), span, 0, cut.experts, 1)
