"""Runs models on a device: a real prompt against NumPy's numbers, and two ranks on the device against one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.benchmark import Test, measure
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.plan import PlanError
from tplaunch.coordinator.text.tokenizer import load_tokenizer
from tplaunch.launcher.checking.parts import OnBegun
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.model import open_model
from tplaunch.launcher.processors import NUMPY
from tplaunch.launcher.session import Session, start_session
from tplaunch.launcher.words import DEMO_MODEL
from tplaunch.worker.jobs.figures import ERROR, RATIO, TOKENS, Figure

PROMPT = "Once upon a time there was a little fox who lived in a forest. One day the fox went out and"
MAX_ERROR = 1e-3  # normalised mean squared error of the logits; what is wrong has about 1
SHAPE = RandomModel("llama-160m", "Q8_0")  # large enough that a second rank has something to compute
PREFILL, DECODE = Test("prefill", 512), Test("decode", 32)
PREFILL_ON_CPU, DECODE_ON_CPU = Test("prefill", 32), Test("decode", 8)
CONTEXT, REPEAT = 600, 2
STEP_SECONDS, LOAD_SECONDS = 20.0, 90.0  # after which a run counts as hanging
FAILURES = (RunError, LogitsError, UsageError, PlanError, ModelError)

Floats = npt.NDArray[np.float32]


def prompt_figures(config: JobConfig, choice: DeviceChoice, on_begun: OnBegun) -> Iterator[Figure]:
    """Yields how far the demo model's logits behind a real prompt are from NumPy's, on one and two ranks."""
    wanted = _run_config(config, DEMO_MODEL)
    tokens = load_tokenizer(open_model(wanted).metadata).encode(PROMPT)
    expected: Floats | None = None
    for ranks, key, what in (
        ([DeviceChoice(None, NUMPY)], "", "real prompt by NumPy"),
        ([choice], "prompt.1", "real prompt, 1 rank"),
        ([choice, choice], "prompt.2", "real prompt, 2 ranks"),
    ):
        on_begun(what)
        of = f"demo model, {len(tokens)} tokens"
        try:
            logits = _logits(wanted, ranks, tokens)
        except FAILURES as error:
            yield Figure(key or "prompt", what, "failed", problem=str(error))
            if expected is None:
                return
            continue
        if expected is None:
            expected = logits
        else:
            yield _compared(key, what, of, logits, expected)


def _compared(key: str, what: str, of: str, logits: Floats, expected: Floats) -> Figure:
    error = float(np.square(logits - expected).mean() / np.square(expected).mean())
    problem = (
        ""
        if error <= MAX_ERROR
        else f"its logits are wrong: an error of {error:.1e}, where {MAX_ERROR:.0e} may be"
    )
    return Figure(key, what, of, error if np.isfinite(error) else None, ERROR, problem)


def rank_figures(config: JobConfig, choice: DeviceChoice, on_begun: OnBegun) -> Iterator[Figure]:
    """Yields how fast one rank and two ranks on the device are, and what the second one brings."""
    wanted, rates = _run_config(config, SHAPE), {}
    tests = (PREFILL_ON_CPU, DECODE_ON_CPU) if choice.on_cpu else (PREFILL, DECODE)
    for count in (1, 2):
        name = "1 rank" if count == 1 else f"{count} ranks"
        on_begun(f"{SHAPE.shape} on {name}")
        try:
            for test, rate in _rates(wanted, [choice] * count, tests).items():
                rates[test.kind, count] = rate
                of = f"{SHAPE.shape}, {test.num_tokens} tokens"
                yield Figure(f"ranks.{test.kind}.{count}", f"{test.kind}, {name}", of, rate, TOKENS)
        except FAILURES as error:
            yield Figure(f"ranks.{count}", f"{SHAPE.shape} on {name}", "failed", problem=str(error))
    for kind in (test.kind for test in tests):
        if {(kind, 1), (kind, 2)} <= rates.keys():
            ratio = rates[kind, 2] / rates[kind, 1]
            yield Figure(f"ranks.{kind}.ratio", f"{kind}, 2 ranks over 1", "of the same device", ratio, RATIO)


def _run_config(config: JobConfig, model: object) -> RunConfig:
    options = {
        field.name: getattr(config.rank_options, field.name) for field in dataclasses.fields(RankOptions)
    }
    options["timeout_seconds"] = STEP_SECONDS
    return RunConfig(
        model=model,  # type: ignore[arg-type]
        context_length=CONTEXT,
        load_timeout_seconds=LOAD_SECONDS,
        verbose=config.verbose,
        **options,
    )


@contextlib.contextmanager
def _opened(config: RunConfig, ranks: Sequence[DeviceChoice]) -> Iterator[Session]:
    """Loads the model; what a run says by the way nobody has asked for."""
    model = open_model(config)
    silence = contextlib.nullcontext() if config.verbose else contextlib.redirect_stderr(io.StringIO())
    with silence, start_session(config, model, arrange(config, model, ranks)) as session:
        yield session


def _logits(config: RunConfig, ranks: Sequence[DeviceChoice], tokens: Sequence[int]) -> Floats:
    with _opened(config, ranks) as session:
        return all_logits(session.engine, tokens)


def _rates(config: RunConfig, ranks: Sequence[DeviceChoice], tests: Sequence[Test]) -> dict[Test, float]:
    """Tokens per second."""
    with _opened(config, ranks) as session:
        return {test: measure(session.engine, session.requests, test, REPEAT).median for test in tests}
