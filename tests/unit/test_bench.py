"""Shapes, made-up weights, and the arithmetic of measurements."""

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.models import LIMITS, LocalEngine, make_spec, write_llama
from tests.steps import positions_of
from tplaunch.coordinator.architectures.described_shapes import GEMMA_3_270M, QWEN_3_5_800M
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.shapes import SHAPES, Shape, described, shape_tensors
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.measuring.ledger import KINDS, make_ledger
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.spec import LayerSpec
from tplaunch.coordinator.serving.benchmark import Measurement, Test, measure
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import check_tensors, rank_shards
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.commands import bench
from tplaunch.launcher.commands.bench import with_room
from tplaunch.launcher.commands.bench_report import Result
from tplaunch.launcher.commands.ledger_report import ledger_table
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.kv_sizes import blocks_for, full_blocks
from tplaunch.launcher.signals import Signalled
from tplaunch.launcher.table import format_table
from tplaunch.launcher.write_gguf import write_gguf
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.weights.model_file import ModelFile
from tplaunch.worker.weights.random_weights import DEVIATION, RandomWeights

# Its rows are whole blocks of every type.
SMALL = Shape(make_spec(embedding_length=256, key_length=64, value_length=64, feed_forward_length=512))
LAYER = LayerSpec(SMALL.spec.attentions[0], None, experts=ExpertsSpec(8, 3, 512, normalised=True))
SMALL_EXPERTS = Shape(dataclasses.replace(SMALL.spec, layers=(LAYER, LAYER)))
SIZES = {"block_count": 6, "embedding_length": 256, "feed_forward_length": 512}
SMALL_WINDOWS = described("gemma3", 300, {**GEMMA_3_270M, **SIZES})
SMALL_STATES = described("qwen35", 300, {**QWEN_3_5_800M, **SIZES})


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_whole_models(name: str, weight_type: str) -> None:
    shape = SHAPES[name]
    columns = WEIGHT_TYPES[weight_type].block_columns
    if shape.spec.embedding_length % columns or (name.startswith("tiny") and columns > 32):
        with pytest.raises(UsageError, match=r"columns of a .* row \(\d+\) is not a multiple"):
            RandomModel(name, weight_type)
        return
    tensors = shape_tensors(shape, weight_type)
    check_tensors(shape.spec, tensors)
    for share in make_plan(shape.spec, [1, 2, 1]):
        assert rank_shards(shape.spec, share, tensors)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-160m", 0.125),
        ("llama-3.2-1b", 1.24),
        ("llama-3.1-8b", 8.03),
        ("llama-3.3-70b", 70.6),
        ("qwen3-30b-a3b", 30.5),
        ("gemma-3-270m", 0.268),
        ("qwen3.5-0.8b", 0.752),
    ],
)
def test_shapes_have_as_many_weights_as_the_models(name: str, billions: float) -> None:
    tensors = shape_tensors(SHAPES[name], "F32")
    assert sum(tensor.nbytes for tensor in tensors.values()) / 4e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_made_up_weights_are_plausible_and_the_same_everywhere(weight_type: str) -> None:
    tensors = shape_tensors(SMALL, weight_type)
    weights, again = RandomWeights(tensors.values()), RandomWeights(tensors.values())
    assert weights.model_hash == Origin().model_hash
    for tensor in tensors.values():
        rows = weights.rows(tensor)
        assert rows.nbytes == tensor.nbytes and rows.shape[0] == (tensor.shape[0] if rows.shape[0] > 1 else 1)
        np.testing.assert_array_equal(rows, again.rows(tensor))
        values = weights.floats(tensor)
        if len(tensor.shape) == 1:
            assert (values == 1).all()
        else:
            assert values.std() == pytest.approx(DEVIATION, rel=0.2) and abs(values.mean()) < DEVIATION / 2
            assert len(np.unique(values, axis=0)) == len(values)


@pytest.mark.parametrize("shape", [SMALL_WINDOWS, SMALL_STATES], ids=["windows", "states"])
def test_made_up_weights_keep_a_model_within_bounds(
    tmp_path: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States must decay: they would grow with every row else."""
    monkeypatch.setitem(SHAPES, "small", shape)
    write_gguf(RandomModel("small", "Q8_0"), tmp_path / "m.gguf")
    limits = dataclasses.replace(LIMITS, num_slots=1)
    engine = LocalEngine(tmp_path / "m.gguf", limits=limits)
    logits = all_logits(engine, [1 + index % 7 for index in range(60)])
    assert np.isfinite(logits).all()
    assert np.abs(logits[30:]).max() < 4 * np.abs(logits[:30]).max()


def test_the_largest_shape_costs_no_memory() -> None:
    tensors = shape_tensors(SHAPES["llama-3.3-70b"], "Q4_0")
    weights = RandomWeights(tensors.values())
    last = weights.rows(tensors["output.weight"])[-1:]
    assert np.isfinite(FORMATS["Q4_0"].dequantize(FORMATS["Q4_0"].repack(last, 8192), 1, 8192)).all()


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize(
    "shape",
    [SMALL, SMALL_EXPERTS, SMALL_WINDOWS, SMALL_STATES],
    ids=["dense", "experts", "windows", "states"],
)
def test_a_written_shape_holds_the_same_weights(
    tmp_path: Path, shape: Shape, weight_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weight_type not in {kind.name for kind in gguf.GGMLQuantizationType}:
        pytest.skip("the gguf package is too old for it")
    monkeypatch.setitem(SHAPES, "small", shape)
    write_gguf(RandomModel("small", weight_type), tmp_path / "m.gguf")
    file = read_model(tmp_path / "m.gguf")
    spec = model_spec(file.metadata, file.tensors)
    assert spec.norm.epsilon == pytest.approx(shape.spec.norm.epsilon)  # float32 in the file
    assert dataclasses.replace(spec, norm=shape.spec.norm) == shape.spec
    tensors = shape_tensors(shape, weight_type)
    made_up, read = RandomWeights(tensors.values()), ModelFile(file.origin.parts)
    assert file.tensors.keys() == tensors.keys()
    for tensor in file.tensors.values():
        np.testing.assert_array_equal(read.rows(tensor), made_up.rows(tensors[tensor.name]))


def test_a_type_that_the_gguf_package_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = enum.IntEnum("older", {"F32": 0})
    monkeypatch.setattr(gguf, "GGMLQuantizationType", older)
    with pytest.raises(UsageError, match="--type q4_0: the gguf package is too old to write it"):
        write_gguf(RandomModel("tiny", "Q4_0"), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_a_ledgers_kinds_add_up_to_the_step() -> None:
    totals = [{"wait": 700.0, "reduce": 200.0, "host": 50.0}, {"device": 900.0, "submit": 20.0}]
    ledger = make_ledger(totals, num_steps=10, seconds=0.001)
    assert ledger.step == 100
    assert [sum(kinds.values()) for kinds in ledger.ranks] == pytest.approx([100, 100])
    assert ledger.ranks[0]["coordinator"] == pytest.approx(5)
    assert all(set(kinds) <= set(KINDS) for kinds in ledger.ranks)
    lines = ledger_table(ledger).splitlines()
    assert "not known" in lines[1] and "not known" in lines[2]
    assert lines[3] == "rank 0: its device has no timestamps; what it computed is in the other kinds"


def test_tests_are_named_as_llama_bench_does() -> None:
    assert [Test("prefill", 512).name, Test("decode", 64).name, Test("decode", 64, 2048).name] == [
        "pp512", "tg64", "tg64@2048",
    ]  # fmt: skip


@pytest.mark.parametrize("parallel", [1, 8])
def test_texts_that_are_measured_together_have_room(parallel: int) -> None:
    """Beyond the blocks that sequences have in other commands, of 1024 positions each."""
    config = RunConfig(model=Path("model.gguf"), devices="numpy", parallel=parallel)
    tests = [Test("prefill", 512), Test("decode", 64, 0, 3), Test("decode", 64, 2048, 3)]
    roomy = with_room(config, tests)
    assert roomy.parallel == max(3, parallel) and roomy.context_length is not None
    assert full_blocks(roomy.context_length, 3 - 1) == 3 * blocks_for(tests[2].num_positions)
    assert with_room(config, tests[:2]).context_length == tests[0].num_positions
    alone = Test("decode", 64, 2048)
    assert with_room(config, [alone]).context_length == alone.num_positions


class RecordingEngine(LocalEngine):
    """Keeps the positions of every step."""

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        super().__init__(path, limits=limits)
        self.positions: list[list[int]] = []

    def submit(self, step: Step) -> None:
        self.positions.append(positions_of(step))
        super().submit(step)


def test_what_a_measurement_runs(tmp_path: Path) -> None:
    """One run that does not count, then the others; decode begins behind a context that is not computed."""
    write_llama(tmp_path / "m.gguf")
    engine = RecordingEngine(tmp_path / "m.gguf")
    requests = Requests(engine)
    decode = measure(engine, requests, Test("decode", 3, context=20), repeat=2)
    assert engine.positions == [[20], [21], *([[20], [21], [22]] * 2)]
    assert decode.ledger.num_steps == 6 and len(decode.seconds) == 2
    engine.positions.clear()
    prefill = measure(engine, requests, Test("prefill", 20), repeat=2)
    assert engine.positions == [list(range(16)), list(range(16, 20))] * 3
    assert prefill.ledger.num_steps == 4
    assert prefill.ledger.step == pytest.approx(sum(prefill.seconds) * 1e6 / 4)
    assert all(pool.num_available == pool.size for pool in requests.memory.pools)


def test_texts_are_measured_together(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    engine = RecordingEngine(tmp_path / "m.gguf", dataclasses.replace(LIMITS, max_sequences=3))
    together = measure(engine, Requests(engine), Test("decode", 2, context=8, batch=3), repeat=1)
    assert engine.positions == [[8] * 3, [9] * 3] * 2
    assert together.test.name == "tg2x3@8"
    assert together.rates == tuple(6 / seconds for seconds in together.seconds)


def test_rates_are_tokens_per_second() -> None:
    measurement = Measurement(Test("decode", 10), (2.0, 1.0, 5.0), make_ledger([], 1, 1.0))
    assert measurement.rates == (5.0, 10.0, 2.0)
    assert measurement.median == 5


def test_results_that_came_before_a_signal_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, to a program that has lost its patience."""

    def measured(*arguments: Any) -> None:
        *_, results, _traces = arguments
        measurement = Measurement(Test("decode", 4), (2.0,), make_ledger([], 1, 1.0))
        results.append(Result(1, ("a card",), measurement, ()))
        raise Signalled(15)

    monkeypatch.setattr(bench, "_bench_on", measured)
    config = RunConfig(model=RandomModel("tiny", "Q8_0"), devices="numpy")
    with pytest.raises(Signalled):
        bench.bench(config, bench.BenchConfig((), (), (4,), (0,), (1,), 1, None, "json"))
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is False and [result["test"] for result in found["results"]] == ["tg4"]


def test_tables_are_aligned_to_the_right() -> None:
    assert format_table(("a", "long"), [("12", "3"), ("", "")]) == " a  long\n12     3\n"
