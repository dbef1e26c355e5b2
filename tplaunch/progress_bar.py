"""Shows the progress of a list of prompts: a bar on a terminal or in a notebook, else nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tplaunch.launcher.progress import is_shown

REFRESH_SECONDS = 0.1
# Takes the numbers of prompts that are finished and of tokens that were generated.
Show = Callable[[int, int], None]


@contextmanager
def progress_bar(num_prompts: int, *, is_wanted: bool) -> Iterator[Show | None]:
    """Yields what to call every REFRESH_SECONDS; None where nobody would see it."""
    if not is_wanted or not num_prompts or not (is_shown() or _is_notebook()):
        yield None
        return
    from rich import progress as bars  # takes long to import
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),  # with the others within 80 columns
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[speed]}"),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=Console(stderr=True), auto_refresh=False) as display:
        task = display.add_task("prompts", total=num_prompts, speed="")

        def show(num_finished: int, num_tokens: int) -> None:
            seconds = display.tasks[0].elapsed
            speed = f"{num_tokens / seconds:.1f} tokens/s" if seconds else ""
            display.update(task, completed=num_finished, speed=speed, refresh=True)

        yield show


def _is_notebook() -> bool:
    """Tells whether a Jupyter kernel runs this, and can show a bar: rich does so by ipywidgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    is_kernel = type(shell).__name__ == "ZMQInteractiveShell"
    return is_kernel and importlib.util.find_spec("ipywidgets") is not None
