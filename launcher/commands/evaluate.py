"""`tplaunch eval`: scores a model by a task of JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.evaluation.running import run_items
from tplaunch.coordinator.evaluation.tasks import metrics, read_task
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.evaluating.display import counted
from tplaunch.launcher.evaluating.measured import measuring, open_measured
from tplaunch.launcher.output_path import check_output_path, writing

TOGETHER = 2  # times as many items are open as there are seats: there is always one that waits for it


@dataclass(frozen=True)
class EvalConfig:
    """The task, and where its results go."""

    task: Path | None
    limit: int | None = None  # items at most
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.task is None:
            raise UsageError("eval takes a task beside the model, such as model.gguf task.jsonl")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: at least 1 is needed")


def evaluate_task(config: RunConfig, wanted: EvalConfig, *, chose_parallel: bool) -> int:
    """Checks all that can be known before a worker starts, then measures."""
    assert wanted.task is not None, "a task, which was checked"
    if wanted.out is not None:
        check_output_path("--out", wanted.out)
    items = read_task(wanted.task, wanted.limit)
    results: list[dict[str, Any]] = []
    with (
        open_measured(config, chose_parallel=chose_parallel) as measured,
        measuring(measured) as session,
    ):
        with counted(len(items), "items") as show:
            together = TOGETHER * session.limits.max_sequences
            done = run_items(session.requests, measured.tokenizer, items, str(wanted.task), together)
            for result in done:
                results.append(result)
                show(len(results), "")
        manifest = measured.manifest("eval", session, {"task": wanted.task.name, "limit": wanted.limit})
    results.sort(key=lambda result: int(result["line"]))
    if wanted.out is not None:
        _write(wanted.out, results)
    numbers = metrics(results)
    if wanted.json:
        found = {name: asdict(estimate) for name, estimate in numbers.items()}
        print(json.dumps({"items": len(items), **found, "manifest": manifest.as_dict()}, indent=2))
        return 0
    print(f"{'items':<12}{len(items)}")
    for name, estimate in numbers.items():
        print(f"{name:<12}{estimate.value:.4f} +/- {estimate.stderr:.4f}")
    print(manifest.line())
    return 0


def _write(out: Path, results: list[dict[str, Any]]) -> None:
    with writing("--out", out), out.open("w", encoding="utf-8") as file:
        for result in results:
            print(json.dumps(result, ensure_ascii=False), file=file)
