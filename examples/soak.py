"""Generates the same seeded texts round after round in one session, and holds every round against the first.

    python -m examples.soak --minutes 30 --devices 0,0 examples/demo-stories.gguf

Ends with 0 if every round gave the same tokens, no process grew and the speed stayed; with 1 otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.cli import BAD_INPUT, FAILED_RUN
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.model import open_model
from tplaunch.launcher.session import Session, start_session

MIB = 1 << 20


@dataclass(frozen=True)
class Round:
    """The result of a round: tokens of every text, and resident bytes of this process and of each rank."""

    tokens: list[list[int]]
    seconds: float
    resident: list[int]

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(map(len, self.tokens)) / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        model = open_model(config)
        arrangement = arrange(config, model, select_devices(config.devices))
        with start_session(config, model, arrangement) as session:
            complaints = _soak(session, options)
    except (*BAD_INPUT, *FAILED_RUN) as error:
        complaints = [str(error)]
    for complaint in complaints:
        print(f"soak: FAILED: {complaint}")
    if not complaints:
        print("soak: passed: the same tokens in every round, memory and speed within their limits")
    return 1 if complaints else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--devices", default="0,0", help="one rank each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="how many rounds, instead of minutes")
    parser.add_argument("--prompts", type=int, default=4, help="texts of a round (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of a text (default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="positions (default: %(default)s)")
    parser.add_argument("--collective", default="shared-memory", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of prompts and sampling (default: %(default)s)")
    parser.add_argument("--report-seconds", type=float, default=30.0,
                        help="between lines (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-growth", type=float, default=16.0,
                        help="MiB that a process may grow by (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-slowdown", type=float, default=0.15,
                        help="of the last third against the first (default: %(default)s)")  # fmt: skip
    return parser


def _config(options: argparse.Namespace) -> RunConfig:
    return RunConfig(
        model=options.model,
        devices=options.devices,
        context_length=options.context,
        collective=options.collective,
        max_rows=64,
        submit_ahead=True,
    )


def _soak(session: Session, options: argparse.Namespace) -> list[str]:
    """Runs the rounds; what is wrong, a sentence each."""
    processes = [psutil.Process(), *psutil.Process().children()]
    deadline = time.monotonic() + options.minutes * 60
    rounds: list[Round] = []
    reported = -float("inf")
    going_on = True
    while going_on:
        made = _run_round(session, options, processes)
        if rounds and made.tokens != rounds[0].tokens:
            return [f"round {len(rounds) + 1}: {_difference(rounds[0].tokens, made.tokens)}"]
        # Later rounds' tokens are the first's: only that one's are kept.
        rounds.append(Round(rounds[0].tokens if rounds else made.tokens, made.seconds, made.resident))
        now = time.monotonic()
        going_on = len(rounds) < options.rounds if options.rounds else now < deadline
        if now - reported >= options.report_seconds or not going_on:
            _report(rounds)
            reported = now
    return [*growth(rounds, options.max_growth), *slowdown(rounds, options.max_slowdown)]


def _run_round(session: Session, options: argparse.Namespace, processes: list[psutil.Process]) -> Round:
    started = time.perf_counter()
    tokens = [_continue(session, options, number) for number in range(options.prompts)]
    return Round(tokens, time.perf_counter() - started, [each.memory_info().rss for each in processes])


def _continue(session: Session, options: argparse.Namespace, number: int) -> list[int]:
    """A text behind a random prompt; both depend on nothing but the seed and the number."""
    random = np.random.Generator(np.random.PCG64((options.seed, number)))
    context = session.limits.context_length
    length = int(random.integers(1, max(2, context - options.tokens)))
    prompt = random.integers(0, session.model.spec.vocabulary_size, length).tolist()
    params = SamplingParams(seed=options.seed + number, max_tokens=options.tokens, ignore_eos=True)
    request = session.requests.add(prompt, params)
    while not request.is_finished:
        session.requests.step()
    return request.outputs[0].token_ids


def _difference(expected: list[list[int]], found: list[list[int]]) -> str:
    for number, (first, second) in enumerate(zip(expected, found, strict=True)):
        for place, (one, other) in enumerate(zip(first, second, strict=False)):
            if one != other:
                return f"token {place} of text {number} is {other}, in the first round it was {one}"
        if len(first) != len(second):
            return f"text {number} has {len(second)} tokens, in the first round it had {len(first)}"
    raise AssertionError("there is no difference")


def _report(rounds: list[Round]) -> None:
    resident = ", ".join(f"{nbytes / MIB:.1f}" for nbytes in rounds[-1].resident)
    print(
        f"round {len(rounds)}: {rounds[-1].rate:.1f} tokens/s; MiB of launcher and ranks: {resident}",
        flush=True,
    )


def growth(rounds: Sequence[Round], max_mib: float) -> list[str]:
    """A sentence for every process that grew after a tenth of the rounds, in which caches fill."""
    start = rounds[len(rounds) // 10]
    names = ["the launcher", *(f"rank {rank}" for rank in range(len(start.resident) - 1))]
    return [
        f"{name} grew from {before / MIB:.1f} to {after / MIB:.1f} MiB; {max_mib:g} more are allowed"
        for name, before, after in zip(names, start.resident, rounds[-1].resident, strict=True)
        if after - before > max_mib * MIB
    ]


def slowdown(rounds: Sequence[Round], limit: float) -> list[str]:
    """A sentence if the last third is slower than the first; the very first round warms up."""
    rates = [each.rate for each in rounds[1:]]
    third = len(rates) // 3
    if not third:
        return []
    early, late = statistics.median(rates[:third]), statistics.median(rates[-third:])
    if late >= early * (1 - limit):
        return []
    return [f"{late:.1f} tokens/s at the end, {early:.1f} at the start: more than {limit:.0%} slower"]


if __name__ == "__main__":
    sys.exit(main())
