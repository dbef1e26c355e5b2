"""The speeds of `tplaunch check` without a device: parts that fail, shares, remarks, and the table."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.drivers import REPOSITORY
from tplaunch.coordinator.framing import framed
from tplaunch.launcher import bench_ranks
from tplaunch.launcher.checking import parts
from tplaunch.launcher.checking.figure_report import figures_json, figures_text, value_text
from tplaunch.launcher.checking.pairs import pair_figures
from tplaunch.launcher.checking.parts import part_figures
from tplaunch.launcher.checking.usual import remarks, shares
from tplaunch.launcher.commands import check
from tplaunch.launcher.commands.check import CheckConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.signals import Signalled
from tplaunch.worker.jobs.figures import (
    BYTES,
    COPIES,
    ERROR,
    FLAG,
    OPERATIONS,
    PRODUCTS,
    RATIO,
    SECONDS,
    TOKENS,
    WAITS,
    Figure,
    FigureBegun,
    PairFigures,
)
from tplaunch.worker.jobs.messages import Failed, Meeting
from tplaunch.worker.jobs.parts import ATTENTION, MOVES, PEAKS, WAITING

GPU, CONFIG = DeviceChoice(0, "gpu 0", on_cpu=False), CheckConfig("0")
COPY = Figure("copy.device", "copy on the device", "256 MiB", 800e9, BYTES)
PEAK = Figure("peak.f32", "multiply-adds, float32", "in registers", 30e12, OPERATIONS)
FAST = Figure("matvec.q8_0", "mat-vec q8_0", "64 rows 4x8 wide prefetch", 600e9, BYTES)
SLOW = Figure("matvec.q4_k", "mat-vec q4_k", "14336 x 4096", 160e9, BYTES)
TILES = Figure("matmul.q4_k", "mat-mat q4_k", "256 x 4096 x 4096", 12e12, OPERATIONS)
LATE = Figure("matvec.f16", "mat-vec f16", "", note="there was no time left for it")
WRONG = Figure("exchange.word", "all-reduce, by a word", "16 KiB", 31e-6, SECONDS, "sums are wrong")
RANKS = Figure("ranks.decode.1", "prefill, 2 ranks over 1", "llama-160m, 512 tokens", 1234.5, TOKENS)
ALL = (COPY, PEAK, FAST, SLOW, TILES, LATE, WRONG)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a part's process say this, as a program that finds the messages in `said`."""

    def run(program: str) -> None:
        command = [sys.executable, "-c", program]
        monkeypatch.setattr("tplaunch.launcher.job_answers.job_command", lambda choice: (command, {}))

    return run


def saying(*messages: object) -> str:
    return f"import os, signal, time; os.write(1, {b''.join(map(framed, messages))!r})\n"


def test_a_part_that_crashes_is_one_row_and_the_others_go_on(process: Callable[[str], None]) -> None:
    process(
        saying(FigureBegun("a", "an a"), COPY, FigureBegun("b", "a b"))
        + "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    begun: list[str] = []
    found = list(part_figures(CONFIG, GPU, begun.append))
    crashed = Figure("b", "a b", "failed", problem="its process was killed by SIGSEGV")
    assert found == [COPY, crashed] * len(parts.BUDGETS)
    assert begun == ["an a", "a b"] * len(parts.BUDGETS)


def test_a_part_that_hangs_is_ended(process: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    process(saying(FigureBegun("a", "an a")) + "signal.pause()")
    monkeypatch.setattr(parts, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(parts, "BUDGETS", {COPIES: 1.0})
    assert list(part_figures(CONFIG, GPU, lambda what: None)) == [
        Figure("a", "an a", "failed", problem="no answer within 0 s")
    ]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ((), "its process ended as if all were well"),
        ((FigureBegun("a", "an a"),), "its process ended as if all were well"),
        (
            (Failed("vkQueueSubmit failed with VK_ERROR_DEVICE_LOST"),),
            "vkQueueSubmit failed with VK_ERROR_DEVICE_LOST",
        ),
    ],
)
def test_a_part_that_tells_nothing_is_wrong(
    process: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, said: tuple[object, ...], problem: str
) -> None:
    process(saying(*said))
    monkeypatch.setattr(parts, "BUDGETS", {WAITS: 1.0})
    (figure,) = part_figures(CONFIG, GPU, lambda what: None)
    assert (figure.problem, figure.of, figure.value) == (problem, "failed", None)


def test_two_ranks_that_crash_keep_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job comes first; what is told behind the ranks' meeting is figures."""
    told = "import os; os.read(0, 4096)\n" + saying(Meeting(("",))) + "os.read(0, 4096)\n"
    told += saying(PairFigures((COPY,))) + "os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(bench_ranks, "job_words", lambda: [sys.executable, "-c", told])
    begun: list[str] = []
    found, failed = pair_figures(CONFIG, (GPU, GPU), begun.append)
    assert found == COPY and (failed.key, failed.of) == ("exchange.hosts", "failed")
    assert failed.problem.endswith("of the exchange ended without a result: killed by SIGSEGV")
    assert begun == ["sharing of memory", "exchange by the hosts"]


def test_all_parts_together_take_two_minutes_at_most() -> None:
    """With what is measured beside them: two ranks, the prompt and the models, some 40 s."""
    assert parts.BUDGETS.keys() == {WAITS, COPIES, PRODUCTS}
    assert sum(parts.BUDGETS.values()) <= 80


def test_each_line_is_explained() -> None:
    text = (REPOSITORY / "docs/gpus.md").read_text()
    for line in (*WAITING.values(), *MOVES.values(), *PEAKS.values()):
        assert f"| {line}" in text or f", {line} |" in text, line
    for kind, names in {"wait": WAITING, "copy": MOVES, "peak": PEAKS}.items():
        assert all(f"`{kind}.{name}`" in text for name in names), kind
    assert all(word in text for word in ATTENTION)


def test_products_are_shares_of_what_the_device_can_do() -> None:
    found = {key: (share.of, share.text) for key, share in shares(ALL).items()}
    assert found == {
        "matvec.q8_0": ("copy.device", "75 % of copy"),
        "matvec.q4_k": ("copy.device", "20 % of copy"),
        "matmul.q4_k": ("peak.f32", "40 % of peak"),
    }
    assert shares((FAST, TILES)) == {}  # nothing to compare with


def test_products_of_rounded_activations_are_shares_of_their_own_peaks() -> None:
    peaks = (
        PEAK,
        Figure("peak.f16", "", "", 240e12, OPERATIONS),
        Figure("peak.q8", "", "", 60e12, OPERATIONS),
    )
    tiles = [Figure(f"matmul.q4_k{kind}", "", "", 30e12, OPERATIONS) for kind in ("", ".f16", ".q8")]
    assert {key: (share.part, share.of) for key, share in shares((*peaks, *tiles)).items()} == {
        "matmul.q4_k": (1.0, "peak.f32"),
        "matmul.q4_k.f16": (0.125, "peak.f16"),
        "matmul.q4_k.q8": (0.5, "peak.q8"),
    }
    assert shares((PEAK, tiles[1])) == {}  # more than float32's peak would be no fault


def test_only_a_card_is_expected_to_be_fast() -> None:
    small = "mat-vec q4_k: under 40% of the device's copy, which is unusual; docs/gpus.md says what to do"
    late = "mat-vec f16: there was no time left for it"
    assert remarks(ALL, on_cpu=False) == [late, small]
    assert remarks(ALL, on_cpu=True) == [late]
    slow = Figure("wait.block", "segment, host sleeps", "", 1e-3, SECONDS)
    assert remarks((slow,), False) == ["segment, host sleeps: unusually slow; docs/gpus.md says what to do"]
    assert remarks((Figure("copy.read", "host reads", "", 5e7, BYTES),), False) != []


def test_a_table_fits_a_terminal_and_says_what_is_wrong() -> None:
    text = figures_text((*ALL, RANKS), on_cpu=False)
    assert max(map(len, text.splitlines())) <= 80 and text.count("measured") == 1  # it is not cut
    rows = {line.split("  ")[0].strip(): line for line in map(str.strip, text.splitlines())}
    assert rows["mat-vec q8_0"].endswith("600 GB/s  75 % of copy")
    assert rows["mat-vec f16"].endswith("-")
    assert rows["all-reduce, by a word"].endswith("31 us, wrong")
    assert "all-reduce, by a word: sums are wrong" in text.splitlines()
    assert "note: mat-vec q4_k: under 40%" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (812.4e9, BYTES, "812 GB/s"),
        (3.35e12, BYTES, "3,350 GB/s"),
        (23.14e-6, SECONDS, "23.1 us"),
        (4.5e10, OPERATIONS, "45 GFLOP/s"),
        (1.21e13, OPERATIONS, "12.1 TFLOP/s"),
        (17.46, TOKENS, "17.5 tokens/s"),
        (1.449, RATIO, "1.45 x"),
        (2.4e-7, ERROR, "error 2e-07"),
        (0.0, FLAG, "no"),
    ],
)
def test_numbers_have_units_of_their_size(value: float, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_figures_that_came_before_a_signal_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And kernels are not checked where only speeds are wanted."""

    def told(*arguments: object) -> Iterator[Figure]:
        yield COPY
        raise Signalled(signal.SIGTERM)

    monkeypatch.setattr(check, "select_devices", lambda devices: [GPU])
    monkeypatch.setattr(check, "part_figures", told)
    with pytest.raises(Signalled):
        check.check(CheckConfig("0", json=True, speeds=True))
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is False and [figure["key"] for figure in figures_of(found)] == ["copy.device"]
    with pytest.raises(Signalled):
        check.check(CheckConfig("0", speeds=True))
    text = capsys.readouterr().out
    assert "800 GB/s" in text and text.endswith("not complete: ended by SIGTERM\n")
    with pytest.raises(UsageError, match="give one of them"):
        CheckConfig("0", quick=True, speeds=True)


def figures_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of the only device."""
    (device,) = found["devices"]
    assert device["kernels"] == []
    return list(device["speeds"]["figures"])


def test_json_keeps_its_keys() -> None:
    found = json.loads(json.dumps(figures_json(ALL, on_cpu=False)))
    assert found.keys() == {"right", "figures", "remarks"}
    assert found["right"] is False and figures_json(ALL[:-1], False)["right"]
    figure = found["figures"][3]
    assert figure == {
        "key": "matvec.q4_k", "what": "mat-vec q4_k", "of": "14336 x 4096", "value": 160e9,
        "unit": "bytes/s", "right": True, "problem": "", "note": "", "share": 0.2, "share_of": "copy.device",
    }  # fmt: skip
