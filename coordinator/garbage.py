"""Keeps Python's garbage collector out of steps: it runs when nobody waits for this process, and only if due.

A step leaves no cycles behind, so in the long run nothing is due; what a caller leaves still gets collected.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

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


def collect_if_due() -> None:
    """Collects if many objects wait. It is called where time is free: while others compute."""
    if gc.get_count()[0] > MAX_UNCOLLECTED:
        gc.collect()
