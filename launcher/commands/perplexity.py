"""`tplaunch perplexity`: how well a model foretells a text, and how far other ways of running are from it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.evaluation.base_file import BaseFile, writing_base
from tplaunch.coordinator.evaluation.chunks import Chunks, begin_of_chunks, chunks_of
from tplaunch.coordinator.evaluation.divergence import (
    Divergence,
    DivergenceReport,
    FileRows,
    KeptRows,
    report,
)
from tplaunch.coordinator.evaluation.manifest import Manifest
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.evaluating.foretelling import as_json, foretell, print_report, sizes
from tplaunch.launcher.evaluating.measured import (
    Measured,
    checked_model,
    measuring,
    open_measured,
    read_text,
)
from tplaunch.launcher.evaluating.ways import way_config
from tplaunch.launcher.hosts.opening import open_hosts
from tplaunch.launcher.output_path import check_output_path
from tplaunch.launcher.table import format_table

CONTEXT = 512  # llama.cpp's
MAX_TEXT_BYTES = 1 << 30


@dataclass(frozen=True)
class PerplexityConfig:
    """The text to foretell, and what to compare with."""

    text: Path | None
    chunks: int | None = None  # at most
    kl_base: Path | None = None  # written where there is no such file
    compare: tuple[str, ...] = ()  # ways of running
    json: bool = False

    def __post_init__(self) -> None:
        if self.chunks is not None and self.chunks < 1:
            raise UsageError(f"--chunks {self.chunks}: at least 1 is needed")
        if self.compare and self.kl_base is not None:
            raise UsageError("--compare and --kl-base both say what to compare with; use one of them")
        if len(self.compare) == 1:
            raise UsageError("--compare is given once: there is nothing to compare it with; give it again")
        if self.text is not None:
            return
        if self.kl_base is None:
            raise UsageError("perplexity takes a text beside the model, such as model.gguf text.txt")
        if not self.kl_base.exists():
            raise UsageError(
                f"--kl-base {self.kl_base} is not there yet; to make it, give a text beside the model"
            )

    @property
    def options(self) -> dict[str, Any]:
        """The part of it that a manifest tells."""
        return {
            "text": None if self.text is None else self.text.name,
            "chunks": self.chunks,
            "kl_base": None if self.kl_base is None else self.kl_base.name,
        }


def measure_perplexity(config: RunConfig, wanted: PerplexityConfig) -> int:
    """Checks all that can be known before a worker starts, then measures."""
    if wanted.compare:
        return _compare_ways(config, wanted)
    if wanted.kl_base is not None and wanted.kl_base.exists():
        return _compare_with_file(config, wanted, wanted.kl_base)
    if wanted.kl_base is not None:
        check_output_path("--kl-base", wanted.kl_base)
    with ExitStack() as stack:
        measured = stack.enter_context(open_measured(config, CONTEXT))
        chunks = _chunks(measured, wanted)
        store = None
        if wanted.kl_base is not None:
            size = measured.model.spec.vocabulary_size
            store = stack.enter_context(writing_base(wanted.kl_base, chunks, size))
        session = stack.enter_context(measuring(measured))
        estimate = foretell(session, Divergence(chunks, store=store), wanted.json)
        manifest = measured.manifest("perplexity", session, wanted.options)
    _finish(wanted, {"perplexity": asdict(estimate), **sizes(chunks)}, manifest)
    return 0


def _chunks(measured: Measured, wanted: PerplexityConfig) -> Chunks:
    """The chunks of the text."""
    assert wanted.text is not None, "a text to foretell"
    text = read_text(wanted.text, MAX_TEXT_BYTES)
    return chunks_of(measured.tokenizer, text, measured.arrangement.limits.context_length, wanted.chunks)


def _finish(wanted: PerplexityConfig, numbers: dict[str, Any], manifest: Manifest) -> None:
    if wanted.json:
        print(json.dumps({**numbers, "manifest": manifest.as_dict()}, indent=2))
    else:
        print(manifest.line())


def _compare_with_file(config: RunConfig, wanted: PerplexityConfig, path: Path) -> int:
    """Compares the model with another one, whose log probabilities lie in a file."""
    base = BaseFile(path)
    with open_measured(config, base.length) as measured:
        _check_base(base, measured, wanted, path)
        found = Divergence(base.chunks(begin_of_chunks(measured.tokenizer), wanted.chunks), FileRows(base))
        with measuring(measured) as session:
            estimate = foretell(session, found, wanted.json)
            manifest = measured.manifest("perplexity", session, wanted.options)
    compared = report(found)
    if not wanted.json:
        print_report(compared)
    numbers = {"perplexity": asdict(estimate), **sizes(found.chunks), **as_json(compared)}
    _finish(wanted, numbers, manifest)
    return 0


def _check_base(base: BaseFile, measured: Measured, wanted: PerplexityConfig, path: Path) -> None:
    """Raises UsageError where the file belongs to another vocabulary, context or text."""
    size, length = measured.model.spec.vocabulary_size, measured.arrangement.limits.context_length
    if base.vocabulary_size != size:
        raise UsageError(
            f"--kl-base {path} is of a vocabulary of {base.vocabulary_size} tokens, and this model has {size}"
        )
    if base.length > length:
        raise UsageError(
            f"--kl-base {path} has chunks of {base.length} tokens, and the context is {length};"
            f" give --context {base.length}"
        )
    if wanted.text is None:
        return
    tokens = measured.tokenizer.encode(read_text(wanted.text, MAX_TEXT_BYTES))
    if base.tokens != tokens[: len(base.tokens)]:
        raise UsageError(
            f"--kl-base {path} has other tokens than {wanted.text}; it brings its own, so leave the text out,"
            " or name a file that is not there yet"
        )


def _compare_ways(config: RunConfig, wanted: PerplexityConfig) -> int:
    """Runs the same chunks in several ways, one after another, and compares each with the first.

    Other hosts join once for all ways; one of them may do without them by --hosts 1.
    """
    configs = [way_config(way, config) for way in wanted.compare]
    most = max(configs, key=lambda each: each.hosts)
    if strange := {each.hosts for each in configs} - {1, most.hosts}:
        raise UsageError(
            f"--compare: its ways have {min(strange)} and {most.hosts} hosts; give one number, or --hosts 1"
        )
    ways = [checked_model(each, CONTEXT) for each in configs]
    with open_hosts(most, ways[0].model) as hosts:
        return _compare_opened([way.on(hosts.under(way.config)) for way in ways], wanted)


def _compare_opened(ways: list[Measured], wanted: PerplexityConfig) -> int:
    if len({way.arrangement.limits.context_length for way in ways}) > 1:
        raise UsageError("--compare: all ways need the same context; give --context")
    chunks = _chunks(ways[0], wanted)
    kept = KeptRows(chunks, ways[0].model.spec.vocabulary_size)
    results: list[tuple[Divergence, Manifest]] = []
    for text, way in zip(wanted.compare, ways, strict=True):
        if not wanted.json:
            print(text)
        found = Divergence(chunks, kept) if results else Divergence(chunks, store=kept)
        with measuring(way) as session:
            foretell(session, found, wanted.json)
            results.append((found, way.manifest("perplexity", session, {**wanted.options, "way": text})))
    compared = [report(found) for found, _ in results[1:]]
    if not wanted.json:
        print(_ways_table(wanted.compare, compared))
        for _, manifest in results:
            print(manifest.line())
        return 0
    rows = [
        {"way": text, "perplexity": asdict(found.perplexity), "manifest": manifest.as_dict()}
        for text, (found, manifest) in zip(wanted.compare, results, strict=True)
    ]
    for row, numbers in zip(rows[1:], compared, strict=True):
        row.update(as_json(numbers))
    print(json.dumps({**sizes(chunks), "ways": rows}, indent=2))
    return 0


def _ways_table(ways: tuple[str, ...], compared: list[DivergenceReport]) -> str:
    titles = (f"against {ways[0]}", "mean KLD", "+/-", "99 %", "largest", "same top", "PPL / base PPL")
    rows = [
        (
            way,
            f"{numbers.mean.value:.6f}",
            f"{numbers.mean.stderr:.6f}",
            f"{numbers.percentiles[99.0]:.6f}",
            f"{numbers.largest:.6f}",
            f"{100 * numbers.same_top.value:.2f} %",
            str(numbers.ratio),
        )
        for way, numbers in zip(ways[1:], compared, strict=True)
    ]
    return format_table(titles, rows)
