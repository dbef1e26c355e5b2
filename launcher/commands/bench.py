"""`tplaunch bench`: how fast a model runs, by test and by number of ranks."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.coordinator.serving.benchmark import Measurement, Test, measure
from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.commands.bench_report import Result, print_report, ranks_text
from tplaunch.launcher.commands.roofline import rooflines
from tplaunch.launcher.config import MAX_PARALLEL, RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.fitting.kv_sizes import BLOCK_LENGTH, blocks_for, full_blocks
from tplaunch.launcher.hosts.opening import Hosts, open_hosts
from tplaunch.launcher.model import Model, open_model
from tplaunch.launcher.processors import CPU
from tplaunch.launcher.session import Session, start_session
from tplaunch.launcher.signals import Signalled
from tplaunch.launcher.trace_file import check_trace_path, write_trace
from tplaunch.launcher.write_gguf import write_gguf

OUTPUTS = ("table", "json", "csv")


@dataclass(frozen=True)
class BenchConfig:
    """The tests to measure, and the form in which to show them."""

    prefill: tuple[int, ...]  # tokens of a prompt
    cached: tuple[int, ...]  # tokens of a prompt that came before
    decode: tuple[int, ...]  # tokens made one by one
    at_context: tuple[int, ...]  # positions before the tokens that are made
    batch: tuple[int, ...]  # texts whose tokens are made together
    repeat: int
    ranks: tuple[int, ...] | None  # how many, cycling through the devices; None: one per device
    output: str
    ledger: bool = False
    trace: Path | None = None
    gguf: Path | None = None  # write the shape there instead of measuring

    def __post_init__(self) -> None:
        assert self.output in OUTPUTS, self.output
        for option, counts in (
            ("--prefill", self.prefill), ("--cached", self.cached), ("--decode", self.decode)
        ):  # fmt: skip
            _check_range(option, counts, 1)
        _check_range("--at-context", self.at_context, 0)
        for count in self.batch:
            if not 1 <= count <= MAX_PARALLEL:
                raise UsageError(f"--batch {count}: 1 to {MAX_PARALLEL} texts are possible")
        if not self.tests:
            raise UsageError("there is nothing to measure: give --prefill, or --decode with --at-context")
        if self.repeat < 1:
            raise UsageError(f"--repeat {self.repeat}: at least 1 is needed")
        for count in self.ranks or ():
            if not 1 <= count <= MAX_RANKS:
                raise UsageError(f"--ranks {count}: 1 to {MAX_RANKS} ranks are possible")

    @property
    def tests(self) -> list[Test]:
        decode = itertools.product(self.at_context, self.batch, self.decode)
        return [
            *(Test("prefill", count) for count in self.prefill),
            *(Test("cached", count) for count in self.cached),
            *(Test("decode", count, context, batch) for context, batch, count in decode),
        ]


def _check_range(option: str, counts: tuple[int, ...], least: int) -> None:
    for count in counts:
        if not least <= count < 2**24:
            raise UsageError(f"{option} {count}: {least} to {2**24 - 1} tokens are possible")


def bench(config: RunConfig, wanted: BenchConfig) -> int:
    """Measures every test on every number of ranks, and prints the results at the end."""
    if wanted.gguf is not None:
        if not isinstance(config.model, RandomModel):
            raise UsageError("--write-gguf writes a --shape; a model file is one already")
        write_gguf(config.model, wanted.gguf)
        return 0
    check_trace_path(wanted.trace)
    config = dataclasses.replace(
        with_room(config, wanted.tests),
        timestamps=wanted.ledger or wanted.trace is not None,
        trace=wanted.trace is not None,
        measure_copy=True,
    )
    model = open_model(config)
    _check_positions(model, wanted.tests)
    results: list[Result] = []
    traces: list[tuple[str, Trace]] = []
    try:
        with open_hosts(config, model) as hosts:
            _bench_on(hosts, config, model, wanted, results, traces)
    except Signalled:
        if wanted.output == "json":  # what is read by a program that may have lost its patience
            print_report(config, model, results, wanted.output, wanted.ledger, is_complete=False)
        raise
    print_report(config, model, results, wanted.output, wanted.ledger)
    if wanted.trace is not None:
        write_trace(wanted.trace, traces)
    return 0


def _bench_on(
    hosts: Hosts,
    config: RunConfig,
    model: Model,
    wanted: BenchConfig,
    results: list[Result],
    traces: list[tuple[str, Trace]],
) -> None:
    """Adds what it measures, as soon as it is there."""
    for num_ranks in wanted.ranks or (len(hosts.choices),):
        found = itertools.islice(itertools.cycle(hosts.choices), num_ranks)
        choices = sorted(found, key=lambda choice: choice.host)  # ranks of one host are neighbours
        wished = config
        if num_ranks < config.num_stages:  # as one rank, to compare with
            wished = dataclasses.replace(config, pipeline=num_ranks, pipeline_split=None)
        arrangement = arrange(wished, model, choices, hosts.measure)
        with start_session(wished, model, arrangement, hosts=hosts) as session:
            _check_cache(session, wanted.tests)
            _bench_session(session, choices, wanted, results)
        if session.engine.trace is not None:
            traces.append((ranks_text(num_ranks), session.engine.trace))


def with_room(config: RunConfig, tests: list[Test]) -> RunConfig:
    """With the context that the longest test needs, and what texts that are measured together need beyond it.

    Raises UsageError where the user wants a shorter one.
    """
    needed = _longest(tests)
    if config.context_length is not None and config.context_length < needed:
        raise UsageError(f"--context {config.context_length}: the longest test needs {needed} positions")
    return dataclasses.replace(
        config,
        context_length=config.context_length or max(needed, *map(_context_for, tests)),
        parallel=max(config.parallel, *(test.batch for test in tests)),
    )


def _context_for(test: Test) -> int:
    """Returns a context with whose blocks all texts of a test have room for all of their positions."""
    context = test.num_positions
    missing = test.batch * blocks_for(context) - full_blocks(context, test.batch - 1)
    return context + missing * BLOCK_LENGTH


def _check_cache(session: Session, tests: list[Test]) -> None:
    """Raises UsageError where the texts of a test don't fit the KV cache together: they would take turns."""
    limits = session.limits
    for test in tests:
        blocks = test.batch * -(-test.num_positions // limits.block_length)
        if test.batch > limits.max_sequences or 0 < limits.num_blocks < blocks:
            raise UsageError(
                f"{test.name}: {test.batch} texts of {test.num_positions} positions need {blocks} blocks of"
                f" the KV cache, which has {limits.num_blocks}; give a larger --context, or a smaller --batch"
            )


def _longest(tests: list[Test]) -> int:
    return max(test.num_positions for test in tests)


def _check_positions(model: Model, tests: list[Test]) -> None:
    """Raises UsageError for tests that need more positions than a model has learned."""
    needed, learned = _longest(tests), model.num_learned
    if learned is not None and needed > learned:
        raise UsageError(
            f"the longest test needs {needed} positions, but the model has learned {learned}, and has no"
            " others; give fewer with --prefill, --decode and --at-context"
        )


def _bench_session(
    session: Session, choices: list[DeviceChoice], wanted: BenchConfig, results: list[Result]
) -> None:
    devices = tuple(
        choice.name if message.device == CPU else message.device  # a name tells which cores, too
        for choice, message in zip(choices, session.attached, strict=True)
    )
    sharing = tuple(message.sharing for message in session.ready)
    for test in wanted.tests:
        measurement = _measure(session, test, wanted.repeat)
        found = rooflines(session.model, session.limits, session.plan, choices, session.ready, measurement)
        results.append(Result(len(choices), devices, measurement, found, sharing))


def _measure(session: Session, test: Test, repeat: int) -> Measurement:
    if sys.stderr.isatty():
        where = ranks_text(len(session.attached))
        print(f"\r\x1b[Kmeasuring {test.name} on {where}", end="", file=sys.stderr, flush=True)
    try:
        return measure(session.engine, session.requests, test, repeat)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
