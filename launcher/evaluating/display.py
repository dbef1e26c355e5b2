"""How far a measurement has come: a bar on a terminal, else now and then a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tplaunch.launcher.lines import say
from tplaunch.launcher.progress import is_shown

LINE_SECONDS = 30.0  # between two lines, where there is no terminal
FIRST_SECONDS = 5.0  # nothing is said of what is over by then
Show = Callable[[int, str], None]  # takes how many are done, and what else there is to say


@dataclass
class Lines:
    """Says now and then how many are done, and how long the rest will take."""

    total: int
    unit: str  # of what is counted, in the plural
    before: int = 0  # done in an earlier run
    ends_line: bool = False  # numbers stand in a line of the terminal that has not ended
    clock: Callable[[], float] = time.monotonic
    _begin: float = field(init=False)
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self._begin = self.clock()
        self._next = self._begin + FIRST_SECONDS

    def show(self, done: int, note: str) -> None:
        now = self.clock()
        if now < self._next or done >= self.total or done <= self.before:
            return
        self._next = now + LINE_SECONDS
        rate = (done - self.before) / (now - self._begin)
        said = f", {note}" if note else ""
        if self.ends_line:
            print()
        left = duration((self.total - done) / rate)
        say(f"{done} of {self.total} {self.unit}{said}, {rate:.3g} a second, {left} left")


def duration(seconds: float) -> str:
    """A length of time for people."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@contextmanager
def counted(total: int, unit: str, before: int = 0, *, prints: bool = False) -> Iterator[Show]:
    """Yields what to call when more are done. before: so many were done in an earlier run.

    prints: meanwhile numbers are printed, which would break the bar's line on a terminal.
    """
    on_terminal = prints and sys.stdout.isatty()
    if on_terminal or not is_shown():
        yield Lines(total, unit, before, on_terminal).show
        return
    from rich import progress as bars  # takes long to import, and is for terminals only
    from rich.console import Console

    columns: tuple[Any, ...] = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}"),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(unit, total=total, completed=before, note="")
        yield lambda done, note: display.update(task, completed=done, note=note)
