"""Cuts a recurrent layer's tensors for a rank.

A tensor may hold several matrices, one after the other, of which a rank has rows of each. Whatever the order
in the file, on the device it is: queries, keys, values, gates, time steps, betas.
"""

from __future__ import annotations

from collections.abc import Iterator

from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.split.cutter import Cutter
from tplaunch.coordinator.split.plan import LayerShare, Span


def cut_recurrent(cutter: Cutter, prefix: str, recurrent: RecurrentSpec, share: LayerShare) -> None:
    """Raises ModelError for a missing tensor and a wrong shape."""
    cut = {"convolution": _cut_short_convolution, "delta": _cut_delta, "scan": _cut_scan}
    cut[recurrent.kind](cutter, prefix, recurrent, share)


def _cut_short_convolution(cutter: Cutter, prefix: str, recurrent: RecurrentSpec, share: LayerShare) -> None:
    prefix, channels, held = prefix + "shortconv.", recurrent.num_heads, share.recurrent
    parts = [shifted(held, part * channels) for part in range(3)]  # gates before and behind, values
    cutter.pieces(prefix + "in_proj", 3 * channels, parts)
    cutter.pieces(prefix + "conv", channels, [held], recurrent.kernel)
    cutter.row_parallel(prefix + "out_proj", held, channels)


def _cut_delta(cutter: Cutter, prefix: str, recurrent: RecurrentSpec, share: LayerShare) -> None:
    heads, keys = recurrent.num_heads, recurrent.num_groups * recurrent.state_length
    held = share.groups.scaled(recurrent.state_length)
    values = share.recurrent.scaled(recurrent.head_length)
    convolved = [held, shifted(held, keys), shifted(values, 2 * keys)]
    num_convolved = 2 * keys + recurrent.inner_length
    if prefix + "ssm_in.weight" in cutter.tensors and prefix + "attn_qkv.weight" not in cutter.tensors:
        spans = _interleaved(recurrent, share, num_convolved + recurrent.inner_length)
        cutter.pieces(prefix + "ssm_in", num_convolved + recurrent.inner_length, list(spans))
    else:
        cutter.pieces(prefix + "attn_qkv", num_convolved, convolved)
        cutter.pieces(prefix + "attn_gate", recurrent.inner_length, [values])
    if prefix + "ssm_ba.weight" in cutter.tensors:
        cutter.pieces(prefix + "ssm_ba", 2 * heads, list(_times_and_betas(recurrent, share)))
    else:
        cutter.pieces(prefix + "ssm_alpha", heads, [share.recurrent])
        cutter.pieces(prefix + "ssm_beta", heads, [share.recurrent])
    cutter.pieces(prefix + "ssm_conv1d", num_convolved, convolved, recurrent.kernel)
    cutter.scalars(prefix + "ssm_a", heads)
    cutter.vector(prefix + "ssm_dt.bias", heads)
    cutter.vector(prefix + "ssm_norm.weight", recurrent.head_length)
    cutter.row_parallel(prefix + "ssm_out", values, recurrent.inner_length)


def _interleaved(recurrent: RecurrentSpec, share: LayerShare, total: int) -> Iterator[Span]:
    """ssm_in of older files: group by group its query, its key, its heads' values and their gates."""
    group_rows, key, per_group = (
        total // recurrent.num_groups,
        recurrent.state_length,
        recurrent.heads_per_group,
    )
    for part in range(2):
        for group in range(share.groups.start, share.groups.stop):
            first = group * group_rows + part * key
            yield Span(first, first + key)
    for part in range(2):
        for group, heads in _heads_by_group(recurrent, share):
            first = group * group_rows + 2 * key + part * per_group * recurrent.head_length
            yield shifted(heads.scaled(recurrent.head_length), first)


def _times_and_betas(recurrent: RecurrentSpec, share: LayerShare) -> Iterator[Span]:
    """Yields the rows of ssm_ba, which has group by group the betas of its heads, then their time steps."""
    per_group = recurrent.heads_per_group
    for part in (1, 0):
        for group, heads in _heads_by_group(recurrent, share):
            yield shifted(heads, (2 * group + part) * per_group)


def _heads_by_group(recurrent: RecurrentSpec, share: LayerShare) -> Iterator[tuple[int, Span]]:
    """The rank's heads of each group it holds, counted from the group's first."""
    if recurrent.tiled:
        raise ModelError("a recurrent layer whose heads alternate can't have tensors that lie group by group")
    per_group = recurrent.heads_per_group
    for group in range(share.groups.start, share.groups.stop):
        first = group * per_group
        start, stop = max(share.recurrent.start, first), min(share.recurrent.stop, first + per_group)
        yield group, Span(start - first, stop - first)


def _cut_scan(cutter: Cutter, prefix: str, recurrent: RecurrentSpec, share: LayerShare) -> None:
    """ssm_in has gates, values, keys, queries and time steps; the convolution takes the middle three."""
    heads, inner = recurrent.num_heads, recurrent.inner_length
    keys = recurrent.num_groups * recurrent.state_length
    held = share.groups.scaled(recurrent.state_length)
    values = share.recurrent.scaled(recurrent.head_length)
    convolved = [shifted(held, inner + keys), shifted(held, inner), values]  # of the convolution's channels
    rows = [
        *(shifted(span, inner) for span in convolved),
        values,
        shifted(share.recurrent, 2 * inner + 2 * keys),
    ]
    cutter.pieces(prefix + "ssm_in", 2 * inner + 2 * keys + heads, rows)
    cutter.pieces(prefix + "ssm_conv1d", inner + 2 * keys, convolved, recurrent.kernel)
    cutter.scalars(prefix + "ssm_a", heads)
    cutter.scalars(prefix + "ssm_d", heads)
    cutter.vector(prefix + "ssm_dt.bias", heads)
    cutter.pieces(prefix + "ssm_norm", recurrent.num_groups, [share.groups], inner // recurrent.num_groups)
    cutter.row_parallel(prefix + "ssm_out", values, inner)


def shifted(span: Span, by: int) -> Span:
    """The same pieces, counted from another place."""
    return Span(span.start + by, span.stop + by)
