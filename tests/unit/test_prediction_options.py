"""Hosts that are not here: how links and devices are written, and what follows from a description."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands.predict import PredictionConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting import foresee
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.launcher.predicting.described import DescribedDevice, described_work, parse_host
from tplaunch.launcher.predicting.links import Link, parse_link
from tplaunch.launcher.predicting.machine import BETWEEN, INSIDE
from tplaunch.launcher.predicting.work import RankWork, Work

SHAPE = SHAPES["llama-160m"]
MODEL = Model(Origin(), {}, shape_tensors(SHAPE, "Q8_0"), SHAPE.spec)
LIMITS = Limits(context_length=4096, num_blocks=128)
PLAN = ["plan", "--shape", "llama-3.1-8b", "--type", "q4_0", "--host-devices"]
DEVICE = "215GB/s:96GiB:20TFLOPS"


@pytest.mark.parametrize(
    ("text", "latency", "rate"),
    [
        ("1000us,1Gbit", 1e-3, 125e6),
        ("0.2ms, 10Gbit/s", 2e-4, 1.25e9),
        ("5us,12.5GB/s", 5e-6, 12.5e9),
        ("20ms,100Mbps", 0.02, 12.5e6),
    ],
)
def test_a_link_is_a_time_and_a_rate(text: str, latency: float, rate: float) -> None:
    link = parse_link(text)
    assert (link.latency, link.bytes_per_second) == pytest.approx((latency, rate))


@pytest.mark.parametrize(
    "text", ["", "1000us", "1Gbit,1000us", "1000us,1Gbit,2", "-1us,1Gbit", "1us,0Gbit", "1,1"]
)
def test_what_is_no_link_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"--link .*such as 1000us,1Gbit"):
        parse_link(text)


def test_a_device_is_described_by_what_it_reaches() -> None:
    assert parse_host("215GB/s") == (DescribedDevice(215e9),)
    full = DescribedDevice(215e9, 96 << 30, 20e12, 50e-6)
    assert parse_host("215GB/s:96GiB:20TFLOPS:50us") == (full,)
    assert parse_host("2x215GB/s:96GiB:20TFLOPS:50us,900GB/s") == (full, full, DescribedDevice(900e9))


@pytest.mark.parametrize("text", ["", "96GiB", "9x215GB/s", "215GB/s:much", "0GB/s", "215GB/s,,"])
def test_what_describes_no_device_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="--host-devices"):
        parse_host(text)


def total(work: Work) -> float:
    return sum(layer.total for layer in work.layers) + work.rest.total


def described(device: DescribedDevice, num_ranks: int = 1) -> RankWork:
    share = make_plan(SHAPE.spec, [1.0] * num_ranks)[0]
    return described_work(device, MODEL, share, LIMITS, 4095, (2, 4), 256)


def test_a_described_device_reads_its_weights_once_a_step_and_its_keys_once_a_text() -> None:
    device = DescribedDevice(1e9, operations_per_second=1e11, dispatch_seconds=0.0)
    weights = sum(each.nbytes for name, each in MODEL.tensors.items() if name != "token_embd.weight")
    found = described(device)
    assert total(found.decode) == pytest.approx(weights / 1e9, rel=0.1)  # planes take a little more
    per_position = 12 * 4 * (64 + 64) * 2  # layers, KV heads, key and value, float16
    assert total(found.decode_far) - total(found.decode) == pytest.approx(4095 * per_position / 1e9)
    assert total(found.together[4]) == pytest.approx(total(found.decode))
    halves = described(device, num_ranks=2)
    assert total(halves.decode) == pytest.approx(total(found.decode) / 2, rel=0.02)
    assert found.last_chunk is not None
    matrices = [each.shape for name, each in MODEL.tensors.items() if name.startswith("blk.0.")]
    products = sum(math.prod(shape) for shape in matrices if len(shape) == 2)
    assert found.last_chunk.layers[0].device == pytest.approx(2 * products * 256 / 1e11, rel=0.01)


def test_a_prefill_without_a_speed_is_not_known() -> None:
    assert described(DescribedDevice(1e9)).first_chunk is None


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_hosts": 99}, "--hosts 99: 1 to 64"),
        ({"num_hosts": 3, "described": (None, None)}, "--hosts 3: --host-devices stands 2 times"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0"),
    ],
)
def test_hosts_that_can_not_be_are_a_sentence(config: dict[str, object], sentence: str) -> None:
    fields: dict[str, object] = {"num_hosts": None, "link": None, "described": (), **config}
    with pytest.raises(UsageError, match=sentence):
        PredictionConfig(**fields)  # type: ignore[arg-type]


def test_hosts_are_as_many_as_are_said_described_or_linked() -> None:
    link, alone = Link(1e-3, 1e9), (DescribedDevice(1e9),)
    asked = PredictionConfig(None, link, ())
    assert asked.by_host == (None, None)
    assert replace(asked, described=(alone,)).by_host == (alone, alone)
    assert replace(asked, described=(None, alone, alone)).by_host == (None, alone, alone)
    assert replace(asked, num_hosts=3).by_host == (None, None, None)
    assert replace(asked, link=None, described=(alone,)).by_host == (alone,)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives what would be measured of this machine."""
    costs = {INSIDE: Cost(10e-6, 1e-10), BETWEEN: Cost(200e-6, 1e-9)}
    monkeypatch.setattr(foresee, "all_reduce_cost", lambda kind, *_, **__: costs[kind])
    monkeypatch.setattr(foresee, "coordinator_seconds", lambda *_: 1e-3)


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*PLAN, *words]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_plan_shows_ways_of_described_hosts_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = predicted(capsys, f"2x{DEVICE}", "--link", "1000us,1Gbit", "-v")
    assert max(map(len, text.splitlines())) <= 80
    for way in ("1 device", "1 host, tensor 2", "tensor 4", "pipeline 2 x tensor 2", "pipeline 4"):
        assert f"\n{way.rjust(21)}  " in text
    assert "Use 1 host, tensor 2: " in text and " of a token more on link latency." in text.replace("\n", " ")
    assert "Measured here:" in text and "link latency" in text


@pytest.mark.usefixtures("quick")
def test_plan_says_plainly_when_one_device_is_faster(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(predicted(capsys, DEVICE, "--link", "1000us,1Gbit", "--json"))
    alone, tensor, stages = found["ways"]
    assert found["advice"].startswith("One device alone is faster: ")
    assert tensor["decode"]["limit"] == "link latency"
    assert tensor["decode"]["tokens_per_second"] < stages["decode"]["tokens_per_second"]
    assert stages["layers"] == [[0, 17], [17, 32]] and stages["stages"] == [0, 1]
    assert alone["decode"]["seconds"]["latency"] == 0 and found["link"]["latency"] == 1e-3
    assert "For long prompts pipeline 2 is faster" in found["advice"]


@pytest.mark.usefixtures("quick")
def test_a_model_too_large_for_one_device_goes_in_stages(capsys: pytest.CaptureFixture[str]) -> None:
    text = predicted(capsys, "215GB/s:4GiB", "--link", "1000us,1Gbit")
    assert "1 device (!)" in text and "1 device does not fit: host 0: 215 GB/s would hold" in text
    assert "Use pipeline 2: " in text
    small = predicted(capsys, "215GB/s:1GiB", "--link", "1000us,1Gbit")
    assert "No way fits these hosts" in small


@pytest.mark.usefixtures("quick")
def test_faster_devices_elsewhere_get_more_layers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("100GB/s", "--host-devices", "900GB/s", "--link", "10us,100Gbit", "--json", "--pipeline", "2")
    _, stages = json.loads(predicted(capsys, *words))["ways"]
    assert stages["layers"][0][1] < 8


@pytest.mark.usefixtures("quick")
def test_a_rank_without_weight_is_a_stage_in_some_ways(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("2x100GB/s", "--link", "10us,100Gbit", "--json", "--tensor-split", "1,0")
    ways = json.loads(predicted(capsys, *words))["ways"]
    assert "pipeline 4" in [way["way"] for way in ways]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--hosts", "2"], "--hosts 2: say how the hosts are linked with --link"),
        (["--link", "1us,1Gbit", "--hosts", "3", "--pipeline", "2"], "--pipeline 2: each stage has as many"),
        (
            ["--link", "1us,1Gbit", "--hosts", "64", "--pipeline", "64"],
            "--pipeline 64: the model has 32 layers",
        ),
        (["--link", "1us,1Gbit", "--tensor-split", "1,2,3"], "--tensor-split has 3 weights"),
    ],
)
def test_what_can_not_be_predicted_is_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, DEVICE, *words]) == 2
    assert sentence in capsys.readouterr().err
