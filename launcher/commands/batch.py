"""`tplaunch batch`: answers a file of requests, and goes on with one that was broken off."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.batches.batch_lines import batch_keys, batch_lines
from tplaunch.coordinator.batches.batch_results import Results, has_failed, open_results
from tplaunch.coordinator.batches.batch_run import BatchRun
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.launcher.commands.serve import SWITCH_SECONDS
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.errors import EXIT_FAILURE, UsageError
from tplaunch.launcher.evaluating.display import counted
from tplaunch.launcher.evaluating.measured import hashes_of, make_manifest
from tplaunch.launcher.lines import say
from tplaunch.launcher.output_path import check_output_path
from tplaunch.launcher.serving_model import model_names, open_for_many
from tplaunch.launcher.session import Session

TOGETHER = 2  # times as many requests are asked as have a seat: there is always one that waits for it
MOST_TOGETHER = 512  # within what the server takes


@dataclass(frozen=True)
class BatchConfig:
    """The requests, and where their answers go."""

    requests: Path | None
    out: Path | None
    names: tuple[str, ...] = ()  # of the model, beside its file's
    seed: int | None = None
    json: bool = False
    tool_format: str | None = None  # in place of the model's own

    def __post_init__(self) -> None:
        if self.requests is None or self.out is None:
            raise UsageError(
                "batch takes requests and a place for answers beside the model, such as"
                " model.gguf requests.jsonl --out results.jsonl"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: 0 to {2**64 - 1} are possible")


@dataclass
class _Counts:
    """The counts of a batch in this run."""

    done: int  # requests with a result, also from earlier runs
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in which requests were answered

    def add(self, result: dict[str, Any]) -> None:
        self.done += 1
        self.failed += has_failed(result)
        if not has_failed(result):
            usage = result["response"]["body"]["usage"]
            self.tokens += usage["completion_tokens" if "completion_tokens" in usage else "output_tokens"]


def run_requests(config: RunConfig, wanted: BatchConfig, *, chose_parallel: bool) -> int:
    """Checks all that can be known before a worker starts, then answers what was not answered yet."""
    requests, out = wanted.requests, wanted.out
    assert requests is not None and out is not None, "paths, which were checked"
    check_output_path("--out", out)
    keys = batch_keys(requests)
    with open_results(out) as results:
        strange = results.done - keys
        if strange:
            raise InputError(
                f"--out {out} has results of other requests than those of {requests}, such as"
                f" {min(map(str, strange))!r:.80}; name another file"
            )
        counts = _Counts(len(results.done))
        if 0 < counts.done < len(keys):
            say(f"{counts.done} of {len(keys)} requests have their results already")
        before = counts.done
        told: dict[str, Any] = {"requests": len(keys), "before": before}
        if before < len(keys):
            with open_for_many(config, chose_parallel=chose_parallel) as loaded:
                hashes = hashes_of(loaded.model)
                sys.setswitchinterval(SWITCH_SECONDS)
                asyncio.run(_answer_all(loaded.opened, loaded.config, wanted, results, counts, len(keys)))
                session = loaded.opened.driver.session
                assert isinstance(session, Session), "a session of this process"
                told["manifest"] = make_manifest(
                    "batch", loaded.config, session, hashes, {"requests": requests.name}, wanted.seed
                )
    _report(wanted, counts, told)
    return EXIT_FAILURE if counts.failed else 0


async def _answer_all(
    opened: Opened,
    config: RunConfig,
    wanted: BatchConfig,
    results: Results,
    counts: _Counts,
    total: int,
) -> None:
    from tplaunch.coordinator.batches.app_answers import answers_of  # fastapi takes long to import
    from tplaunch.coordinator.server.app import make_app

    assert not isinstance(config.model, RandomModel), "the command line takes files only"
    assert wanted.requests is not None, "a path, which was checked"
    names = [*wanted.names, *model_names(config.model)]
    app = make_app(  # the file is the user's own
        opened, names, trusts_templates=True, tool_format=wanted.tool_format
    )
    begin = time.monotonic()
    with counted(total, "requests", counts.done) as show:

        def take(result: dict[str, Any]) -> None:
            counts.add(result)
            counts.seconds = time.monotonic() - begin
            failed = f", {counts.failed} failed" if counts.failed else ""
            show(counts.done, f"{counts.tokens / counts.seconds:.1f} tokens/s{failed}")

        async with answers_of(app) as answer:
            run = BatchRun(answer, results, take, wanted.seed)
            together = min(MOST_TOGETHER, TOGETHER * config.parallel)
            await run.run(batch_lines(wanted.requests), together)


def _report(wanted: BatchConfig, counts: _Counts, told: dict[str, Any]) -> None:
    manifest = told.pop("manifest", None)
    numbers = {**told, "failed": counts.failed, "completion_tokens": counts.tokens, "seconds": counts.seconds}
    if wanted.json:
        found = {**numbers, "manifest": None if manifest is None else manifest.as_dict()}
        print(json.dumps(found, indent=2))
        return
    answered = counts.done - told["before"]
    if not answered:
        print(f"0 of {told['requests']} requests were left to answer")
        return
    failed = f", {counts.failed} of them failed" if counts.failed else ""
    rate = f", {counts.tokens / counts.seconds:.1f} tokens/s" if counts.tokens else ""
    print(f"{answered} of {told['requests']} requests answered{failed}, {counts.tokens} tokens{rate}")
    if manifest is not None:
        print(manifest.line())
