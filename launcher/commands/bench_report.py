"""Shows what was measured: a table for people, JSON and CSV for scripts."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tplaunch.coordinator.serving.benchmark import Measurement
from tplaunch.launcher.commands.ledger_report import ledger_json, ledger_table
from tplaunch.launcher.commands.roofline import Roofline, roofline_text
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.model import Model
from tplaunch.launcher.table import format_table
from tplaunch.worker.device import SHARING_WORDS


@dataclass(frozen=True)
class Result:
    """A measurement, and what it was made on."""

    num_ranks: int
    devices: tuple[str, ...]  # names, by rank
    measurement: Measurement
    rooflines: tuple[Roofline, ...]  # by rank; empty for prefill
    sharing: tuple[str, ...] = ()  # how each rank's device shares partial sums, by rank


def print_report(
    config: RunConfig,
    model: Model,
    results: Sequence[Result],
    output: str,
    with_ledger: bool,
    is_complete: bool = True,
) -> None:
    """output: table, json or csv. The ledger is in the JSON whether it is asked for or not."""
    name = config.model.name
    if output == "json":
        found = [_as_json(result, results) for result in results]
        print(json.dumps({"model": name, "complete": is_complete, "results": found}), flush=True)
    elif output == "csv":
        _print_csv(results)
    else:
        spec = model.spec
        print(wrapped(f"{name}: {spec.num_layers} layers, {spec.embedding_length} wide, KV {config.kv_type}"))
        _print_table(results)
        for result in results if with_ledger else ():
            where = ranks_text(result.num_ranks)
            print(f"\n{result.measurement.test.name} on {where}, mean microseconds of a step")
            print(ledger_table(result.measurement.ledger))
            if result.num_ranks > 1:
                print(wrapped(sharing_text(result.sharing)))


def sharing_text(sharing: Sequence[str]) -> str:
    """Says by what each rank's device shares partial sums."""
    ranks: dict[str, list[str]] = {}
    for rank, way in enumerate(sharing):
        ranks.setdefault(SHARING_WORDS.get(way, way), []).append(str(rank))
    parts = (f"{words} (rank{'s' * (len(found) > 1)} {', '.join(found)})" for words, found in ranks.items())
    return f"partial sums are shared by {', '.join(parts)}"


def ranks_text(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _print_table(results: Sequence[Result]) -> None:
    for num_ranks, devices in {result.num_ranks: result.devices for result in results}.items():
        print(wrapped(f"{ranks_text(num_ranks)} on {', '.join(devices)}"))
    titles = ("ranks", "test", "tokens/s", "min", "max", "speed-up")
    print(format_table(titles, [_table_row(result, results) for result in results]))
    for result in results:
        if result.rooflines:
            where = f"{result.measurement.test.name} on {ranks_text(result.num_ranks)}"
            print(wrapped(f"{where}: {roofline_text(result.rooflines)}"))


def _table_row(result: Result, results: Sequence[Result]) -> tuple[str, ...]:
    measurement, speed_up = result.measurement, _speed_up(result, results)
    rates = (measurement.median, min(measurement.rates), max(measurement.rates))
    return (
        str(result.num_ranks),
        measurement.test.name,
        *(f"{rate:.2f}" for rate in rates),
        "-" if speed_up is None else f"{speed_up:.2f}",
    )


def _speed_up(result: Result, results: Sequence[Result]) -> float | None:
    """Over one rank in the same test; None where that was not measured."""
    test = result.measurement.test
    alone = (other for other in results if other.num_ranks == 1 and other.measurement.test == test)
    return next((result.measurement.median / other.measurement.median for other in alone), None)


def _plain(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    """Returns the fields that JSON and CSV share."""
    test, rates = result.measurement.test, result.measurement.rates
    return {
        "ranks": result.num_ranks,
        "test": test.name,
        "kind": test.kind,
        "tokens": test.num_tokens,
        "context": test.context,
        "batch": test.batch,
        "median_tokens_per_second": result.measurement.median,
        "min_tokens_per_second": min(rates),
        "max_tokens_per_second": max(rates),
        "speed_up": _speed_up(result, results),
    }


def _as_json(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    return {
        **_plain(result, results),
        "tokens_per_second": result.measurement.rates,
        "devices": result.devices,
        "sharing": result.sharing,
        "rooflines": [{**asdict(each), "reached": each.reached} for each in result.rooflines],
        "ledger": ledger_json(result.measurement.ledger),
    }


def _print_csv(results: Sequence[Result]) -> None:
    rows = [_plain(result, results) for result in results]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
