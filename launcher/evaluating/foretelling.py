"""Shows how well a text is foretold: a running estimate, the final one, and what was compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tplaunch.coordinator.evaluation.chunks import Chunks
from tplaunch.coordinator.evaluation.divergence import Divergence, DivergenceReport
from tplaunch.coordinator.evaluation.statistics import Estimate
from tplaunch.launcher.evaluating.display import counted
from tplaunch.launcher.session import Session


def foretell(session: Session, found: Divergence, as_json: bool) -> Estimate:
    """Computes all chunks, and shows a running estimate behind each, as llama.cpp does. Returns the last."""
    with counted(len(found.chunks), "chunks", prints=not as_json) as show:
        for number, estimate in enumerate(found.computed(session.requests), 1):
            show(number, f"perplexity {estimate.value:.4f}")
            if not as_json:
                print(f"[{number}]{estimate.value:.4f},", end="", flush=True)
    estimate = found.perplexity
    if not as_json:
        print(f"\nFinal estimate: PPL = {estimate.value:.4f} +/- {estimate.stderr:.5f}")
    return estimate


def sizes(chunks: Chunks) -> dict[str, int]:
    """The counts that belong to a perplexity."""
    scored = len(chunks) * chunks.num_scored
    return {"context": chunks.length, "chunks": len(chunks), "scored_tokens": scored}


def as_json(numbers: DivergenceReport) -> dict[str, Any]:
    """A comparison as plain data, divergences in nats."""
    return {
        "base_perplexity": asdict(numbers.base_perplexity),
        "perplexity_ratio": asdict(numbers.ratio),
        "mean_kl_divergence": asdict(numbers.mean),
        "kl_divergence_percentiles": {
            f"{percent:g}": value for percent, value in numbers.percentiles.items()
        },
        "largest_kl_divergence": numbers.largest,
        "same_top": asdict(numbers.same_top),
    }


def print_report(numbers: DivergenceReport) -> None:
    """Prints a comparison for people, divergences in nats."""
    top = numbers.same_top
    lines: Mapping[str, str] = {
        "base": f"PPL = {numbers.base_perplexity.value:.4f} +/- {numbers.base_perplexity.stderr:.5f}",
        "PPL / base PPL": str(numbers.ratio),
        "mean KLD": str(numbers.mean),
        "largest KLD": f"{numbers.largest:.6f}",
        **{
            "median KLD" if percent == 50 else f"{percent:g} % KLD": f"{value:.6f}"
            for percent, value in numbers.percentiles.items()
        },
        "same top token": f"{100 * top.value:.3f} +/- {100 * top.stderr:.3f} %",
    }
    for name, value in lines.items():
        print(f"{name + ':':<16}{value}")
