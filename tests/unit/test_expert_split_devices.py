"""`--expert-split devices`: experts on processors, all else on cards, and what is said where it can't be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.models import config_of
from tests.unit.test_predicting import MS, cluster, near, rank, shape, way_of
from tplaunch.coordinator.split.plan import Span
from tplaunch.launcher.commands import show
from tplaunch.launcher.commands.show import show_plan
from tplaunch.launcher.config import EXPERTS_APART, RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting import memory_places
from tplaunch.launcher.fitting.arrange import Arrangement, arrange
from tplaunch.launcher.machine import HostMemory
from tplaunch.launcher.model import open_model
from tplaunch.launcher.predicting import foresee
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.launcher.predicting.model import predict
from tplaunch.launcher.predicting.shares import group_plan, has_experts_apart
from tplaunch.launcher.predicting.wanted import HostDevice, Wanted
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

SHAPE = RandomModel("qwen3-30b-a3b", "Q4_K")  # 17 GB, of which all but 0.7 are experts
CONFIG = config_of(SHAPE, devices="0,cpu", expert_split=EXPERTS_APART, context_length=4096)
MODEL = open_model(CONFIG)
CPU, OTHER_CPU = DeviceChoice(None, "cpu"), DeviceChoice(None, "cpu:1")


def card(gigabytes: float = 4, index: int = 0, **changes: Any) -> DeviceChoice:
    return DeviceChoice(index, f"gpu {index}", on_cpu=False, memory_bytes=int(gigabytes * 1e9), **changes)


@pytest.fixture(autouse=True)
def gigabytes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sets what memory the machine has: the last number."""
    found = [64.0]

    def host_memory(_num_ranks: int) -> HostMemory:
        return HostMemory(int(found[-1] * 1e9), int(found[-1] * 1e9))

    monkeypatch.setattr(memory_places, "host_memory", host_memory)
    return found


def arranged(*choices: DeviceChoice, **changes: Any) -> Arrangement:
    return arrange(dataclasses.replace(CONFIG, **changes), MODEL, choices)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_small_card_holds_all_but_the_experts(is_first: bool) -> None:
    choices = (card(), CPU) if is_first else (CPU, card())
    found = arranged(*choices)
    on_card, on_cpu = sorted(range(2), key=lambda index: choices[index].index is None)
    share, held = found.plan[on_card], found.bytes[on_card]
    assert str(share.vocabulary) == "0..151935" and str(share.layers[0].heads) == "0..31"
    assert not share.holds_experts and 600e6 < held.weights < 800e6 and held.cache == 4096 * 48 * 2 * 4 * 256
    share, held = found.plan[on_cpu], found.bytes[on_cpu]
    assert not len(share.vocabulary) and not len(share.layers[0].heads) and not held.cache
    assert share.layers[0].experts == Span(0, 128) and 16e9 < held.weights < 17e9
    assert {share.routers for share in found.plan} == {(on_cpu,)}


def test_weights_count_among_cards_and_among_processors() -> None:
    found = arranged(card(), CPU, card(4, 1), OTHER_CPU, tensor_split=(3.0, 1.0, 1.0, 2.0))
    layers = [share.layers[0] for share in found.plan]
    assert [len(layer.heads) for layer in layers] == [24, 0, 8, 0]
    assert [len(layer.expert_columns) for layer in layers] == [0, 256, 0, 512]
    assert [len(share.vocabulary) for share in found.plan] == [113952, 0, 37984, 0]


def test_the_other_hosts_processors_hold_experts_too() -> None:
    """Whose memory counts there: the head plans for all, and ranks are told their shares."""
    there: dict[str, Any] = {"host": 1, "host_name": "there", "host_memory": (int(64e9), int(64e9), "")}
    choices = (card(), CPU, card(4, 0, **there), dataclasses.replace(CPU, **there))
    found = arranged(*choices, hosts=2)
    assert [bool(rank.cache) for rank in found.bytes] == [True, False, True, False]
    assert {share.routers for share in found.plan} == {(1, 3)}
    staged = arranged(*choices, hosts=2, pipeline=2, tensor_split=(1.0,) * 4)
    assert [share.routers for share in staged.plan] == [(1,), (1,), (1,), (1,)]
    assert [str(share.stage_layers) for share in staged.plan] == ["0..24", "0..24", "25..47", "25..47"]


@pytest.mark.parametrize(
    ("choices", "changes", "sentence"),
    [
        ((CPU, OTHER_CPU), {}, "no rank is on a card, which would hold all but the experts"),
        (
            (card(),),
            {},
            "no rank is on a processor, whose memory would hold the experts; --devices needs both",
        ),
        ((card(), CPU), {"tensor_split": (1.0, 0.0)}, "no rank with a share is on a processor"),
        ((card(), CPU), {"tensor_split": (0.0, 1.0)}, "no rank with a share is on a card"),
        ((card(), CPU), {"pipeline": 2}, r"no rank of stage 0 \(ranks 0..0\) is on a processor"),
        ((card(), card(), CPU, CPU), {"pipeline": 2}, r"both for each stage, such as 0,cpu,0,cpu$"),
        ((CPU, card(), CPU), {"pipeline_split": (4, 44)}, r"no rank of stage 0 \(ranks 0..0\) is on a card"),
        ((card(2), CPU), {"context_length": 40960}, r"device 0 \(gpu 0\) would hold .* lower --context"),
    ],
)
def test_what_can_not_be_is_a_sentence(
    choices: tuple[DeviceChoice, ...], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        arranged(*choices, **changes)
    assert "it fits with" not in str(caught.value)


def test_a_model_without_experts_is_refused() -> None:
    dense = dataclasses.replace(CONFIG, model=RandomModel("llama-160m", "Q8_0"))
    with pytest.raises(UsageError, match="--expert-split devices: the model has no experts"):
        arrange(dense, open_model(dense), [card(), CPU])


def test_the_way_out_is_named_where_a_model_does_not_fit(gigabytes: list[float]) -> None:
    """But not where it would not fit so, either."""
    words = (
        "; it fits with --devices 0,cpu --expert-split devices, which has experts in this machine's memory"
    )
    for devices, choices in (("0", (card(),)), ("0,cpu", (card(), CPU))):
        options: dict[str, Any] = {"devices": devices, "expert_split": "columns"}
        gigabytes[-1] = 64.0
        with pytest.raises(UsageError, match="the plan does not fit") as caught:
            arranged(*choices, **options)
        assert str(caught.value).endswith(words)
        gigabytes[-1] = 12.0
        with pytest.raises(UsageError, match="the plan does not fit") as caught:
            arranged(*choices, **options)
        assert "--expert-split" not in str(caught.value)
    gigabytes[-1] = 64.0
    with pytest.raises(UsageError, match="the plan does not fit") as caught:
        arranged(card(0.5), devices="0", expert_split="columns")  # too small for all but the experts, too
    assert "--expert-split" not in str(caught.value)


def test_the_plan_says_where_experts_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "planned_devices", lambda *_, **__: ([card(), CPU], ""))
    assert show_plan(CONFIG, as_json=False, explains=True) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Experts are on rank 1 (cpu); all else is on rank 0 (device 0 (gpu 0))." in text
    assert "0 0..31 0..3 none none 0..151935" in text and "1 none none 0..127 0..767 none" in text


def test_processors_compute_behind_cards_in_a_prediction() -> None:
    """Not at the same time: experts multiply what attention has left."""
    hosts = cluster((0, 0))
    way = way_of("tensor 2", hosts.hosts)
    works = {0: rank(1 * MS, rest=2 * MS), 1: dataclasses.replace(rank(3 * MS), is_behind=True)}
    assert predict(way, shape(), hosts, works).decode.seconds.device == near((8 + 2 + 24) * MS)
    works[1] = rank(3 * MS)
    assert predict(way, shape(), hosts, works).decode.seconds.device == near(24 * MS)


def test_a_prediction_has_experts_apart_where_a_group_allows_it() -> None:
    devices: tuple[HostDevice, ...] = (card(), CPU)
    wanted = Wanted((devices,), None)
    both = group_plan(CONFIG, MODEL.spec, wanted, (0, 1))
    assert [share.holds_experts for share in both] == [False, True]
    assert has_experts_apart(CONFIG, wanted, (0, 1)) and not has_experts_apart(CONFIG, wanted, (0,))
    (alone,) = group_plan(CONFIG, MODEL.spec, wanted, (0,))
    assert alone.holds_experts and len(alone.vocabulary)
    columns = dataclasses.replace(CONFIG, expert_split="columns")
    assert all(share.holds_experts for share in group_plan(columns, MODEL.spec, wanted, (0, 1)))


def test_speed_is_foreseen_of_the_shares_that_a_run_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank's own steps are timed: 1 ms for a card's layer here, and 3 ms for a processor's."""
    monkeypatch.setattr(foresee, "all_reduce_cost", lambda *_, **__: Cost(0.0))
    monkeypatch.setattr(foresee, "coordinator_seconds", lambda *_: 1 * MS)
    held = []

    def steps(
        _: object, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
    ) -> list[list[StepSeconds]]:
        loads = [job.load for job in jobs]
        names = [choice.name for choice in choices]
        held.append(list(zip(names, [load.share.holds_experts for load in loads], strict=True)))
        layers = len(loads[0].spec.layers)
        each = [(1 if choice.index is not None else 3) * MS for choice in choices]
        return [[StepSeconds(seconds * layers, 1.0)] * len(jobs[0].points) for seconds in each]

    found = foresee.foresee(CONFIG, MODEL, Wanted(((card(), CPU),), None), steps)
    decode = {each.way.name: each.decode.seconds.device for each in found.predictions}
    assert decode["tensor 2"] == near(48 * 4 * MS) and decode["1 device"] == near(48 * MS)
    assert [("gpu 0", False), ("cpu", True)] in held and [("gpu 0", True)] in held
    assert [bool(lack) for lack in found.lacks][:2] == [True, False]  # one card alone is too small
    dense = dataclasses.replace(CONFIG, model=RandomModel("llama-160m", "Q8_0"))
    with pytest.raises(UsageError, match="the model has no experts"):
        foresee.foresee(dense, open_model(dense), Wanted(((card(), CPU),), None), steps)


def test_the_option_is_read(tmp_path: Path) -> None:
    assert RunConfig(model=tmp_path / "m.gguf", expert_split="devices").expert_split == EXPERTS_APART
    with pytest.raises(UsageError, match="--expert-split"):
        RunConfig(model=tmp_path / "m.gguf", expert_split="cards")
