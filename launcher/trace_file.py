"""Writes traces to a file that Perfetto (https://ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.launcher.output_path import check_output_path, writing


def check_trace_path(path: Path | None) -> None:
    """Before anything is measured. Raises UsageError."""
    if path is not None:
        check_output_path("--trace", path)


def write_trace(path: Path, runs: Sequence[tuple[str, Trace]]) -> None:
    """runs: a name and the trace of each, shown as processes. Raises RunError."""
    events = [event for i, (name, trace) in enumerate(runs) for event in trace.events(i + 1, name)]
    with writing("--trace", path):
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
