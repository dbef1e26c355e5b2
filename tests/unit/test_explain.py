"""Counts of the work that a token gives devices, by programs, and `tplaunch plan --explain`."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from tests.drivers import REPOSITORY
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands.explain import passes
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.measuring.measurements import Numbers
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
from tplaunch.worker.vulkan.in_flight import WHOLE_TILES, bytes_in_flight, usual_bytes_in_flight
from tplaunch.worker.vulkan.variants import FAMILIES, Selection

SPLIT_IS_FASTEST: Numbers = {
    variant.suffix: 1.0 if variant.suffix == "_split_wide" else 2.0 for variant in FAMILIES["matvec_q8_0"]
}
MATRIX = Matrix("m", "Q8_0", 128, 64)
PRODUCT = MatMul(MATRIX, None, "normed", "qkv", 0, "rows")
ATTENTION = Attention("k", "v", 4, 2, 0, 2, 16, 32, 1.0)
EXPERTS = ExpertMatMul(MATRIX, None, "normed", "out", 0, 16, HeldExperts(2, 0, 8))


def rows_of(rows: int, logit_rows: int = 1) -> Program:
    return Program(rows, logit_rows, ())


def test_weights_are_read_once_for_all_rows_and_keys_for_each() -> None:
    once = read_bytes(PRODUCT, rows_of(1), 0, "f16")
    assert once == read_bytes(PRODUCT, rows_of(9), 0, "f16") > 128 * 64
    assert read_bytes(ATTENTION, rows_of(3), 100, "f16") == 3 * sum(
        KV_TYPES["f16"].nbytes(200, n) for n in (16, 32)
    )
    one = FORMATS["Q8_0"].nbytes(16, 64)
    found = [read_bytes(EXPERTS, rows_of(rows), 0, "f16") for rows in (1, 3, 100)]
    assert found == [2 * one, 6 * one, 8 * one]


def test_a_card_reads_weights_once_for_each_tile_of_rows() -> None:
    """And those of an expert once for each 64 of its rows; what becomes logits is few rows."""
    once, one = read_bytes(PRODUCT, rows_of(1), 0, "f16"), FORMATS["Q8_0"].nbytes(16, 64)
    output = dataclasses.replace(PRODUCT, rows="logit_rows")
    for rows, passes_over, of_expert in ((1, 1, 2), (128, 1, 8), (129, 2, 8), (512, 4, 16)):
        assert read_bytes(PRODUCT, rows_of(rows), 0, "f16", 128) == passes_over * once
        assert read_bytes(output, rows_of(rows), 0, "f16", 128) == once
        assert read_bytes(EXPERTS, rows_of(rows), 0, "f16", 128) == of_expert * one


def matvec(weight_type: str, rows: int = 4096, columns: int = 4096) -> MatMul:
    return MatMul(Matrix("m", weight_type, rows, columns), None, "normed", "qkv", 0, "rows")


def test_what_a_card_has_asked_for_is_counted_by_workgroups_and_lanes() -> None:
    """512 subgroups of 32 lanes, each of which loads 16 bytes of eight columns: 2 MB of Q8_0."""
    limits = Limits(context_length=512, num_blocks=16)
    assert (
        bytes_in_flight(matvec("Q8_0"), limits) == bytes_in_flight(matvec("Q4_K"), limits) == 512 * 32 * 128
    )
    assert bytes_in_flight(matvec("Q6_K"), limits) == 512 * 32 * 8 * 24
    assert bytes_in_flight(matvec("F16"), limits) == 2 * 512 * 32 * 128
    # Measured to be faster, a workgroup of 256 splits four rows, and one of 128 two; of short rows none does.
    for weight_type, columns, asked in (("Q8_0", 4096, 256 * 16 * 4), ("Q4_K", 8192, 128 * 16 * 2)):
        split = Selection(("int64", "card"), lambda name: SPLIT_IS_FASTEST)
        few = matvec(weight_type, 64, columns)
        groups = 64 // (4 if weight_type == "Q8_0" else 2)
        assert bytes_in_flight(few, limits, split) == groups * asked
        assert bytes_in_flight(few, limits, split) > bytes_in_flight(few, limits)
        short = matvec(weight_type, 64, 1024)
        assert bytes_in_flight(short, limits, split) == bytes_in_flight(short, limits)
    # A row of 64 weights keeps four lanes busy; the whole matrix is all that can be asked for.
    assert bytes_in_flight(matvec("Q8_0", 4096, 64), limits) == 512 * 4 * 128
    assert bytes_in_flight(matvec("F32", 8, 32), limits) == 8 * 32 * 4
    mixed = Program(1, 1, (Segment((matvec("Q8_0"), matvec("Q8_0", 4096, 64), ATTENTION), None),))
    wide, narrow = (FORMATS["Q8_0"].nbytes(4096, columns) for columns in (4096, 64))
    expected = (wide + narrow) / (wide / (512 * 32 * 128) + narrow / (512 * 4 * 128))
    assert usual_bytes_in_flight(mixed, limits) == int(expected)
    assert usual_bytes_in_flight(program(), limits) > 0 == usual_bytes_in_flight(rows_of(1), limits)


def test_lanes_load_what_the_shaders_say() -> None:
    """A unit of two halves is a whole tile."""
    text = (REPOSITORY / "shaders/units.slang").read_text()
    names = {"UnitOfBlock": ("Q4_0", "Q4_1", "Q5_0", "Q5_1"), "UnitWithMinima": ("Q4_K", "Q5_K")}
    units = re.findall(r"^struct (\w+)[^\n]*: IUnit\n.*?HALVES = (\d);", text, re.M | re.S)
    found = [names.get(unit, (unit.removeprefix("Unit"),)) for unit, halves in units if halves == "2"]
    assert sorted(name.upper() for of_unit in found for name in of_unit) == sorted(WHOLE_TILES)


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
    words = ["plan", "--explain", "--shape", "llama-160m", "--type", "q8_0", "--devices", "numpy,numpy"]
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
    assert "A step of 512 rows of a prompt:" in text
    assert main([*words, "--devices=5", "--max-memory=5=48GiB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ((token,), (prompt,)) = found["token"]["hosts"], found["prompt"]["one-shot"]
    # 8e12 operations, of which a submission has 2e11 at most; the weights are passed over four times, and
    # keys and values once for 64 query vectors, which are 16 rows.
    assert token["submissions"] == 1 and 40 < prompt["submissions"] < 80 and prompt["dispatches"] > 250
    keys = KV_TYPES["f16"].nbytes(2048 * 8, 128) * 2 * 32
    assert 3.5 < (prompt["read_bytes"] - 32 * keys) / (token["read_bytes"] - keys) < 4
    assert 2e6 < token["in_flight_bytes"] < 2e7
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
