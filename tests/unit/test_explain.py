"""Counts of the work that a token gives devices, by programs, and `tplaunch plan --explain`."""

from __future__ import annotations

import json

import pytest

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands.explain import passes
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.experts import ExpertMatMul, HeldExperts
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.counting import count, read_bytes
from tplaunch.worker.programs.device_exchange import with_exchanges
from tplaunch.worker.programs.program import Phase, Program, Segment
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.questions import NOWHERE, SOME_PARTIALS
from tplaunch.worker.vulkan.dispatch.table import dispatch
from tplaunch.worker.vulkan.variants import Selection

MATRIX = Matrix("m", "Q8_0", 128, 64)
PRODUCT = MatMul(MATRIX, None, "normed", "qkv", 0, "rows")
ATTENTION = Attention("k", "v", 4, 2, 0, 2, 16, 32, 1.0)
EXPERTS = ExpertMatMul(MATRIX, None, "normed", "out", 0, 16, HeldExperts(2, 0, 8))


def test_weights_are_read_once_for_all_rows_and_keys_for_each() -> None:
    assert read_bytes(PRODUCT, 1, 0, "f16") == read_bytes(PRODUCT, 9, 0, "f16") > 128 * 64
    assert read_bytes(ATTENTION, 3, 100, "f16") == 3 * sum(KV_TYPES["f16"].nbytes(200, n) for n in (16, 32))
    one = FORMATS["Q8_0"].nbytes(16, 64)
    assert [read_bytes(EXPERTS, rows, 0, "f16") for rows in (1, 3, 100)] == [2 * one, 6 * one, 8 * one]


def program(*phases: Phase) -> Program:
    ends = [Segment((PRODUCT,), number % 2, phase) for number, phase in enumerate(phases)]
    return Program(2, 1, (*ends, Segment((PRODUCT, PRODUCT), None)))


@pytest.mark.parametrize(
    ("phases", "sent", "taken"),
    [
        ([Phase.ONE_SHOT] * 2, 800, 3 * 800),
        ([Phase.PARTIALS, Phase.SLICES], 800 + 800 // 3, 1600),
        ([Phase.HOSTS], 800, 800),
        ([], 0, 0),
    ],
)
def test_what_travels_is_counted(phases: list[Phase], sent: int, taken: int) -> None:
    found = count(program(*phases), 3, 100, 50, "f16")
    assert (found.sent_bytes, found.taken_bytes) == (sent, taken)
    assert found.dispatches == len(phases) + 2 and found.submissions == found.host_waits == len(phases) + 1
    assert found.all_reduces == len([phase for phase in phases if phase is not Phase.SLICES])
    assert found.loads == -(-found.read_bytes // 16)


def test_devices_that_exchange_need_one_submission_and_no_host() -> None:
    """Their words are twice as long, and none takes its own."""
    hosts = program(Phase.ONE_SHOT, Phase.ONE_SHOT)
    found = count(with_exchanges(hosts), 3, 100, 50, "f16")
    assert (found.submissions, found.host_waits, found.all_reduces, found.dispatches) == (1, 1, 2, 6)
    assert (found.sent_bytes, found.taken_bytes) == (1600, 3200)


def test_a_budget_makes_more_submissions() -> None:
    one = 2.0 * 2 * 128 * 64
    assert count(program(), 1, 100, 50, "f16", budget=one).submissions == 2


def test_the_plan_explains_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["plan", "--explain", "--shape", "llama-160m", "--type", "q8_0", "--devices", "cpu,cpu"]
    assert main([*words, "--context", "1024"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "where hosts exchange partial sums" in text and "where devices exchange partial sums" in text
    assert main([*words, "--context", "1024", "--json"]) == 0
    token = json.loads(capsys.readouterr().out)["token"]
    assert [rank["all_reduces"] for rank in token["hosts"]] == [24, 24]  # twice a layer
    assert [rank["submissions"] for rank in token["hosts"]] == [25, 25]
    assert [rank["submissions"] for rank in token["devices"]] == [1, 1]
    assert [rank["sent_bytes"] for rank in token["hosts"]] == [768 * 4] * 2


@pytest.mark.parametrize(("step_rows", "expected"), [(512, 4), (256, 4), (128, 4), (64, 8), (200, 5)])
def test_a_prompt_passes_over_the_weights_once_for_each_tile(step_rows: int, expected: int) -> None:
    assert passes(step_rows) == expected


def test_the_plan_explains_a_prompt_on_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--explain", "--shape=llama-3.1-8b", "--type=q4_k", "--context=4096"]
    assert main([*words, "--devices=5", "--max-memory=5=48GiB"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "512 rows of a prompt are steps of up to 512; on a card they pass over the weights 4 times" in text
    assert main([*words, "--devices=5,6", "--max-memory=5=48GiB,6=48GiB"]) == 0
    assert "A step of 512 rows of a prompt on devices with memory of their own" in capsys.readouterr().out


@pytest.mark.parametrize("activations", ["f32", "f16"])
def test_512_rows_of_a_product_are_four_tiles(activations: str) -> None:
    op = MatMul(
        Matrix("matrix", "Q4_K", 4096, 4096),
        None,
        "input",
        "output",
        0,
        "rows",
        activations=activations,
        of_prompts=True,
    )
    limits = Limits(context_length=512, num_blocks=16, max_rows=512)
    features = ("cooperative_matrix",)
    context = DispatchContext(
        Program(512, 1, ()), lambda name: NOWHERE, SOME_PARTIALS, limits, 32, 1024, Selection(features)
    )
    assert dispatch(op, context).groups == (4, 32, 1)
