"""Shows a prediction: a table for people, and numbers for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tplaunch.coordinator.split.placement import HEAD
from tplaunch.launcher.lines import shown, wrapped
from tplaunch.launcher.predicting.advice import advice
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.launcher.predicting.foresee import Foreseen
from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.model import Prediction, Rate
from tplaunch.launcher.predicting.seconds import LIMITS, Seconds, added
from tplaunch.launcher.predicting.wanted import Wanted
from tplaunch.launcher.predicting.work import Work
from tplaunch.launcher.table import format_table


def hosts_text(wanted: Wanted) -> str:
    """Returns a line for each host that has joined, with its devices and the link to it as measured."""
    lines = []
    for host, (name, devices) in enumerate(zip(wanted.names, wanted.hosts, strict=True)):
        link = wanted.links.get((HEAD, host))
        way = "this host" if link is None else f"measured link: {link.text}"
        lines.append(
            wrapped(f"host {host}: {shown(name)} ({', '.join(device.name for device in devices)}), {way}")
        )
    if len(wanted.names) > 2:
        lines.append(
            wrapped("Links between those that joined are taken to be as slow as the slowest of these.")
        )
    return "\n".join(lines)


def hosts_json(wanted: Wanted) -> list[dict[str, Any]]:
    """Returns the same for programs."""
    return [
        {
            "name": name,
            "devices": [device.name for device in devices],
            "link": None if host == HEAD else asdict(wanted.links[HEAD, host]),
        }
        for host, (name, devices) in enumerate(zip(wanted.names, wanted.hosts, strict=True))
    ]


def prediction_text(found: Foreseen, link: Link | None, verbose: bool) -> str:
    """Returns lines of at most as many columns as the terminal has."""
    shape, context = found.shape, found.limits.context_length
    titles = (
        *("way", "decode", f"at {context}", f"{shape.num_sequences} texts", f"pp{shape.prompt_tokens}"),
        *("decode's limit", "prefill's"),
    )
    rows = [_row(each, lack) for each, lack in zip(found.predictions, found.lacks, strict=True)]
    hosts = max(found.cluster.hosts) + 1
    where = f"{hosts} hosts" + (f", {link.text}" if link is not None else "") if hosts > 1 else "one host"
    lines = [
        wrapped(
            f"Predicted tokens/s on {where}: decode of one text at its beginning and at context {context},"
            f" of {shape.num_sequences} texts together, and prefill of {shape.prompt_tokens} tokens."
        ),
        format_table(titles, rows),
        *(
            wrapped(f"{each.way.name} does not fit: {lack}")
            for each, lack in zip(found.predictions, found.lacks, strict=True)
            if lack
        ),
        wrapped(advice(found)),
    ]
    return "\n".join(lines + (_measured(found) if verbose else []))


def _row(found: Prediction, lack: str) -> tuple[str, ...]:
    rates = (found.decode, found.decode_far, found.together, found.prefill)
    limits = (found.decode, found.prefill)
    return (
        found.way.name + (" (!)" if lack else ""),
        *(_rate(rate) for rate in rates),
        *(LIMITS[rate.limit] if rate is not None else "" for rate in limits),
    )


def _rate(rate: Rate | None) -> str:
    return "?" if rate is None else rate.text


def _measured(found: Foreseen) -> list[str]:
    """Everything that was measured, and what it comes to in a token."""
    cluster = found.cluster
    lines = ["", "Measured here:", f"  coordinator: {_us(cluster.coordinator)} a step"]
    for count, cost in cluster.local.items():
        lines.append(f"  all-reduce of {count} ranks of a host: {_cost(cost)}")
    lines.append(f"  all-reduce of two hosts, without the link: {_cost(cluster.between)}")
    titles = ("way, rank", "decode", "of it layers", "at the end", "first chunk", "last chunk")
    rows = []
    for each, works in zip(found.predictions, found.works, strict=True):
        for rank, work in works.items():
            cells = [_work(work.decode), _layers(work.decode), _work(work.decode_far)]
            chunks = [_work(work.first_chunk), _work(work.last_chunk)]
            rows.append((f"{each.way.name}, {rank}", *cells, *chunks))
    lines += ["  Milliseconds of a rank's own work, all layers:", format_table(titles, rows)]
    lines.append("  Milliseconds of a token of one text, by what limits it:")
    parts = [(each.way.name, *_milliseconds(each.decode.seconds)) for each in found.predictions]
    return [*lines, format_table(("way", *LIMITS.values(), "total"), parts)]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def _cost(cost: Cost) -> str:
    return f"{_us(cost.seconds)} and {cost.seconds_per_byte * 1e12:.0f} us/MB"


def _total(work: Work) -> Seconds:
    return added([*work.layers, work.rest])


def _work(work: Work | None) -> str:
    return "?" if work is None else f"{_total(work).total * 1e3:.4g}"


def _layers(work: Work) -> str:
    return f"{sum(layer.total for layer in work.layers) * 1e3:.4g}"


def _milliseconds(seconds: Seconds) -> tuple[str, ...]:
    parts = (seconds.device, seconds.dispatch, seconds.latency, seconds.bandwidth)
    return tuple(f"{value * 1e3:.3f}" for value in (*parts, seconds.total))


def prediction_json(found: Foreseen, link: Link | None) -> dict[str, Any]:
    """Returns the same for programs; rates in tokens per second, times in seconds."""
    cluster = found.cluster
    return {
        "link": None if link is None else asdict(link),
        "prompt_tokens": found.shape.prompt_tokens,
        "sequences": found.shape.num_sequences,
        "measured": {
            "coordinator": cluster.coordinator,
            "all_reduce_on_host": {str(count): asdict(cost) for count, cost in cluster.local.items()},
            "all_reduce_between_hosts": asdict(cluster.between),
        },
        "ways": [_way(each, lack) for each, lack in zip(found.predictions, found.lacks, strict=True)],
        "advice": advice(found),
    }


def _way(found: Prediction, lack: str) -> dict[str, Any]:
    placement = found.way.placement
    rates: Mapping[str, Rate | None] = {
        "decode": found.decode,
        "decode_at_context": found.decode_far,
        "together": found.together,
        "prefill": found.prefill,
    }
    return {
        "way": found.way.name,
        "hosts": list(placement.hosts),
        "stages": list(placement.stages),
        "layers": [[span.start, span.stop] for span in found.layers],
        "does_not_fit": lack or None,
        **{name: _json(rate) for name, rate in rates.items()},
    }


def _json(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {
        "tokens_per_second": rate.tokens_per_second,
        "limit": LIMITS[rate.limit],
        "seconds": asdict(rate.seconds),
    }
