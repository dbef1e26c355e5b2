"""A watcher of workers for tests whose workers are no processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class NoProcesses:
    """None of them ends."""

    def watch(self, excused: Collection[int]) -> None:
        pass

    def descriptors(self) -> Iterable[int]:
        return ()
