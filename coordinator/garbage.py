"""Keeps Python's garbage collector out of steps: it runs when nobody waits for this process, and only if due.

A step leaves no cycles behind, so in the long run nothing is due; what a caller leaves still gets collected.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 1  # generation: what the last collection has not seen
REST = 100  # times as long as a walk through all objects took, nothing but young ones are looked at
MAX_UNCOLLECTED = 10_000  # containers made and not freed since the last collection


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Lets only `collect_if_due` collect in its body, without a walk through what exists already."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


class _Rest:
    """Says until when only young objects are looked at: a walk through all holds up every thread."""

    until = 0.0  # on the monotonic clock


def collect_if_due() -> None:
    """Collects if many objects wait. It is called where time is free: while others compute.

    Where very many objects live, as the log probabilities of thousands of texts, looking at all of them takes
    most of a second, and they make a collection due again and again.
    """
    if gc.get_count()[0] <= MAX_UNCOLLECTED:
        return
    begin = time.monotonic()
    if begin < _Rest.until:
        gc.collect(YOUNG)
        return
    gc.collect()
    end = time.monotonic()
    _Rest.until = end + REST * (end - begin)
