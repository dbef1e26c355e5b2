"""Ranks on devices of one kind agree on what each of them has found out for itself."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.worker.step.segments import SegmentRunner


def agrees(runner: SegmentRunner, kinds: Sequence[str], wishes: bool) -> bool:
    """Tells a rank that has a wish if it is fulfilled: if all ranks on devices of its kind have it.

    All ranks ask at the same time. kinds: of their devices, in rank order.
    """
    collective = runner.collective
    if collective.num_ranks == 1:
        return wishes
    refusals = runner.told([float(not wishes)])[:, 0]
    own = kinds[collective.rank]
    return not any(refuses for kind, refuses in zip(kinds, refusals, strict=True) if kind == own)
