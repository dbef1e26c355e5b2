"""Holds the prediction against what others have published of tensor parallelism and stages between hosts.

Each row gives one device's speed and what came out on several. What a source does not say is left open: a row
is asked only what it can tell, and a number that one row gives is used to predict another.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.predicting.advice import advice, best
from tplaunch.launcher.predicting.cluster import Cluster, Cost
from tplaunch.launcher.predicting.foresee import Foreseen
from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.model import Prediction, Shape, predict
from tplaunch.launcher.predicting.seconds import Seconds
from tplaunch.launcher.predicting.ways import ways
from tplaunch.launcher.predicting.work import RankWork, Work

US = 1e-6
GBIT = 1e9 / 8


@dataclass(frozen=True)
class Published:
    """Tokens per second of decode, or microseconds where that is said."""

    source: str
    cannot_tell: str
    one: float = 0.0  # of one device alone; 0 where it is not said
    tensor: float = 0.0
    stages: float = 0.0


STRIX_HALO_27B = Published(
    "README of an RCCL fork for two hosts: two Strix Halo, Thunderbolt, TCP, 27B Q6_K of 64 layers",
    "what dispatch an exchange has: an all-reduce alone took 286 us there, but a token 274 ms",
    one=12.9,
    tensor=3.65,
    stages=8.87,
)
STRIX_HALO_2B = Published(
    "the same, a model of 2B",
    "how many layers it has: models of this size have 24 to 28",
    one=71.0,
    tensor=19.3,
)
ONE_CABLE = Published(
    "jundot/omlx 3037: RDMA 28.6, a TCP ring 6.6 over one Thunderbolt cable",
    "what one host reaches, and how many layers the model has",
    tensor=6.6,
)
TWO_MACS = Published(
    "exo 2070: gpt-oss-120B of 36 layers, two Macs, Thunderbolt 5; TP from 48 to 98",
    "why TP is 48 at one time and 98 at another",
    one=80.0,
    tensor=98.0,
    stages=68.0,
)
STRIX_HALO_100GBE = Published(
    "ds4 1036: two Strix Halo, 100 GbE: TCP 15.4, RoCE 15.9",
    "what one host reaches: the model does not fit it; the source names no way of splitting",
    stages=15.4,
)
SPARKS = Published(
    "ds4 754: DGX Spark, 200G: one 14.3, TP2 16.3, TP4 17.3",
    "how much of a rank's work is halved: part of the model is on all of them",
    one=14.3,
    tensor=16.3,
)
CPU_8B = Published(
    "distributed-llama 179: 8B of 32 layers on CPUs, Ethernet: 5.5 and 6.0",
    "the kind of Ethernet",
    one=5.5,
    tensor=6.0,
)
THUNDERBOLT = Link(286 * US, 10 * GBIT)


def shape(num_layers: int, width: int) -> Shape:
    exchanges = dict.fromkeys((2, 3, 4), 2 * num_layers)
    return Shape(num_layers, 4 * width, {1: 0, **exchanges}, 4, 64, 1)


def work(seconds: float, num_layers: int) -> RankWork:
    each = Work((Seconds(device=seconds / num_layers),) * num_layers)
    return RankWork(each, each, dict.fromkeys((1, 2, 4), each), None, None)


def foreseen(
    row: Published,
    num_layers: int,
    width: int,
    link: Link,
    dispatch: float,
    fits_one: bool = True,
    hosts: int = 2,
) -> Foreseen:
    """A rank of a group has its part of the device's time; dispatch: seconds of an exchange."""
    cluster = Cluster(tuple(range(hosts)), link, {}, Cost(dispatch), 0.0)
    found: list[Prediction] = []
    for way in ways(cluster.hosts):
        works = dict.fromkeys(way.ranks, work(1 / row.one / way.group_size, num_layers))
        found.append(predict(way, shape(num_layers, width), cluster, works))
    lacks = ("" if fits_one else "one host has no room", *[""] * (len(found) - 1))
    return Foreseen(tuple(found), lacks, (), cluster, shape(num_layers, width), Limits(4096, 128))


def rate(found: Foreseen, name: str) -> float:
    return next(each.decode.tokens_per_second for each in found.predictions if each.way.name == name)


def exchange_seconds(row: Published, num_exchanges: int, ranks: int = 2) -> float:
    """Returns what each exchange took, where ranks share one device's time equally."""
    return (1 / row.tensor - 1 / row.one / ranks) / num_exchanges


def dispatch_of_2b(num_layers: int) -> float:
    return exchange_seconds(STRIX_HALO_2B, 2 * num_layers) - THUNDERBOLT.latency


@pytest.mark.parametrize("num_layers", [24, 28])
def test_tensor_parallel_over_tcp_one_strix_halo_is_faster(num_layers: int) -> None:
    """The dispatch of the small model's exchanges predicts the large one's verdict, and half of its loss."""
    found = foreseen(STRIX_HALO_27B, 64, 5120, THUNDERBOLT, dispatch_of_2b(num_layers))
    assert STRIX_HALO_27B.tensor < rate(found, "tensor 2") < 2 * STRIX_HALO_27B.tensor
    assert rate(found, "1 device") > rate(found, "pipeline 2") > rate(found, "tensor 2")
    assert advice(found).startswith("One device alone is faster") or "Use one device alone" in advice(found)
    tensor = next(each for each in found.predictions if each.way.name == "tensor 2")
    assert tensor.decode.limit == "dispatch"


def test_latency_and_bandwidth_alone_would_call_two_as_fast_as_one() -> None:
    found = foreseen(STRIX_HALO_27B, 64, 5120, THUNDERBOLT, dispatch=0.0)
    assert rate(found, "tensor 2") == pytest.approx(rate(found, "1 device"), rel=0.02)
    assert rate(found, "tensor 2") / STRIX_HALO_27B.tensor == pytest.approx(3.6, rel=0.05)


def test_what_does_not_fit_one_strix_halo_runs_in_stages() -> None:
    found = foreseen(STRIX_HALO_27B, 64, 5120, THUNDERBOLT, dispatch_of_2b(26), fits_one=False)
    assert advice(found).startswith("Use pipeline 2: ")
    # The published stages have 35 ms more in a token than two halves and a hop, which no link explains.
    assert rate(found, "pipeline 2") > STRIX_HALO_27B.stages


def test_only_stages_explain_that_tcp_and_roce_are_alike() -> None:
    """With the exchanges that TCP had on the other two, 40 layers already take longer than a token did."""
    tcp, roce = (
        foreseen(
            Published("", "", one=STRIX_HALO_100GBE.stages * 1.05), 40, 7168, link, 0.65e-3, fits_one=False
        )
        for link in (Link(30 * US, 100 * GBIT), Link(3 * US, 100 * GBIT))
    )
    assert rate(tcp, "pipeline 2") == pytest.approx(rate(roce, "pipeline 2"), rel=0.05)
    assert best(tcp.predictions[1:], lambda each: each.decode).way.name == "pipeline 2"
    assert advice(tcp).startswith("Use pipeline 2: ")
    tcp_exchange = dispatch_of_2b(26) + THUNDERBOLT.latency
    assert 2 * 40 * tcp_exchange > 1 / STRIX_HALO_100GBE.stages


def test_exchanges_over_tcp_cost_about_the_same_wherever_they_were_published() -> None:
    """About a millisecond, of which the wire is a tenth: what a predictor must measure, and can't look up."""
    found = [
        exchange_seconds(CPU_8B, 64),
        exchange_seconds(STRIX_HALO_27B, 128),
        *(exchange_seconds(STRIX_HALO_2B, 2 * layers) for layers in (24, 28)),
        *((1 / 6.6 - 1 / 28.6) / (2 * layers) for layers in (32, 64)),  # beyond those of RDMA
    ]
    assert min(found) > 0.7e-3 and max(found) < 2e-3


def test_the_exchange_of_cpus_predicts_the_verdict_of_strix_halos() -> None:
    exchange = exchange_seconds(CPU_8B, 64)
    found = foreseen(STRIX_HALO_27B, 64, 5120, THUNDERBOLT, exchange - THUNDERBOLT.latency)
    assert rate(found, "tensor 2") == pytest.approx(STRIX_HALO_27B.tensor, rel=0.5)
    assert "ne device alone" in advice(found)


def test_cpus_on_ethernet_gain_too_little_for_a_second_one() -> None:
    found = foreseen(CPU_8B, 32, 4096, Link(100 * US, GBIT), 0.0)
    measured = exchange_seconds(CPU_8B, 64)
    assert rate(found, "tensor 2") > CPU_8B.tensor  # the wire alone is too optimistic here, too
    same = foreseen(CPU_8B, 32, 4096, Link(100 * US, 1e12), measured - 100 * US)
    assert rate(same, "tensor 2") == pytest.approx(CPU_8B.tensor, rel=0.02)
    assert "Use one device alone" in advice(same)


@pytest.mark.parametrize(("exchange", "chosen"), [(55 * US, "Use tensor 2"), (202 * US, "ne device alone")])
def test_two_macs_win_or_lose_by_the_exchange(exchange: float, chosen: str) -> None:
    """The published 98 and 48 are an exchange of 55 and of 202 us; the verdict turns at 87."""
    found = foreseen(TWO_MACS, 36, 2880, Link(0.0, 1e12), exchange)
    assert rate(found, "tensor 2") == pytest.approx(98 if exchange < 100 * US else 48, rel=0.02)
    assert chosen in advice(found)
    assert rate(found, "pipeline 2") < TWO_MACS.one  # one text has one stage wait for the other: 68 there


def test_four_sparks_stand_between_peers_in_turn_and_all_at_once() -> None:
    """Whatever the number of layers is: only that of all exchanges together counts."""
    exchange = exchange_seconds(SPARKS, 2 * 61)
    in_turn = foreseen(SPARKS, 61, 7168, Link(0.0, 1e12), exchange, hosts=4)
    at_once = 1 / (1 / SPARKS.one / 4 + 2 * 61 * exchange)
    assert rate(in_turn, "tensor 4") < 17.3 < at_once


def test_the_wire_is_less_than_half_of_an_exchange_of_four_sparks() -> None:
    """b12x 295: 48 KB by RoCE take 59 us by NCCL and 23 one-shot, of which the wire is 8.8."""
    link = Link(3 * US, 200 * GBIT)
    wire = Cluster((0, 1, 2, 3), link, {}, Cost(0.0), 0.0).all_reduce((0, 1, 2, 3), 48e3).total
    assert wire == pytest.approx(8.8 * US, rel=0.05) and wire < 23 * US / 2


def test_one_gigabit_is_not_what_stages_wait_for() -> None:
    """llama.cpp 16276: a 4B by layers over 1 GbE makes 33 tokens/s. What takes 30 ms is not said."""
    cluster = Cluster((0, 1), Link(200 * US, GBIT), {}, Cost(0.0), 0.0)
    assert cluster.hand_over(0, 1, 2560 * 4).total + cluster.answer((1,)).total < 0.02 / 33
