"""Shows the progress of loads and downloads: bars on a terminal, nothing when errors go elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tplaunch.coordinator.messages import Progress
from tplaunch.coordinator.serving.loading import OnProgress


def is_shown() -> bool:
    """Tells whether standard error is a terminal; there may be none at all."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def show_progress(totals: Sequence[int]) -> Iterator[OnProgress]:
    """Yields what to call with every report. The bars go away when all ranks are loaded.

    totals: the bytes of weights that each rank loads.
    """
    if not is_shown():
        yield lambda rank, progress: None
        return
    from rich import progress as bars  # takes long to import, and is for terminals only
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
    )
    display = bars.Progress(*columns, console=Console(stderr=True), transient=True)
    tasks = [display.add_task(f"loading rank {rank}", total=total) for rank, total in enumerate(totals)]
    done: set[int] = set()

    def report(rank: int, progress: Progress) -> None:
        doing = f"rank {rank}: {progress.doing}" if progress.doing else f"loading rank {rank}"
        display.update(tasks[rank], completed=progress.done, total=progress.total, description=doing)
        if progress.done == progress.total:
            done.add(rank)
        if len(done) == len(totals):
            display.stop()

    display.start()
    try:
        yield report
    finally:
        display.stop()


@contextmanager
def show_download(num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the bytes that came, or with fewer than none where some were of no use.

    num_bytes: of all files; 0 where nobody knows.
    """
    if not is_shown():
        yield lambda some: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),  # with the others within 80 columns
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("downloading", total=num_bytes or None)
        yield lambda some: display.advance(task, some)
