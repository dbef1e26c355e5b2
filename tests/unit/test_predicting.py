"""The arithmetic of a prediction: links, exchanges, stages and prompts, by numbers that are easy to check."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tplaunch.coordinator.split.plan import Span
from tplaunch.launcher.predicting.cluster import Cluster, Cost
from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.model import Prediction, Shape, predict
from tplaunch.launcher.predicting.seconds import Seconds, added, longest
from tplaunch.launcher.predicting.ways import Way, ways
from tplaunch.launcher.predicting.work import RankWork, Work

NUM_LAYERS = 8
MS = 1e-3
SLOW = Link(latency=2 * MS, bytes_per_second=1e6)


def near(seconds: float) -> Any:
    """About so many, where Seconds are compared."""
    return pytest.approx(seconds)


def work(layer: float, rest: float = 0.0, layers: int = NUM_LAYERS) -> Work:
    return Work((Seconds(device=layer),) * layers, Seconds(device=rest))


def rank(layer: float, rest: float = 0.0, chunk: float = 0.0) -> RankWork:
    """Every row takes as long as one; a chunk's layers take `chunk` each."""
    decode = work(layer, rest)
    return RankWork(decode, work(2 * layer, rest), dict.fromkeys((1, 2, 4), decode), work(chunk), work(chunk))


def shape(num_chunks: int = 1) -> Shape:
    return Shape(NUM_LAYERS, 1000, {1: 0, 2: 16, 4: 16}, 4, 16, num_chunks)


def cluster(
    hosts: tuple[int, ...], link: Link = SLOW, dispatch: float = 0.0, wire: str = "f32", inside: float = 0.0
) -> Cluster:
    local = {2: Cost(inside), 4: Cost(inside)}
    return Cluster(hosts, link, local, Cost(dispatch), 1 * MS, wire)


def predicted(name: str, hosts: Cluster, works: RankWork, num_chunks: int = 1, rows: int = 16) -> Prediction:
    way = way_of(name, hosts.hosts)
    chunks = dataclasses.replace(shape(num_chunks), chunk_rows=rows)
    return predict(way, chunks, hosts, dict.fromkeys(way.ranks, works))


def way_of(name: str, hosts: tuple[int, ...]) -> Way:
    return next(way for way in ways(hosts) if way.name == name)


def test_seconds_add_up_and_have_a_limit() -> None:
    total = added([Seconds(device=1.0), Seconds(1.0, 4.0), Seconds(latency=3.0) * 2])
    assert total == Seconds(2.0, 4.0, 6.0) and total.total == 12.0 and total.limit == "latency"
    assert longest([Seconds(1.0), total, Seconds(bandwidth=11.0)]) is total
    assert longest([]) == added([]) == Seconds()


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ((0,), ["1 device"]),
        ((0, 0), ["1 device", "tensor 2", "pipeline 2"]),
        ((0, 1), ["1 device", "tensor 2", "pipeline 2"]),
        ((0, 1, 2), ["1 device", "tensor 3", "pipeline 3"]),
        (
            (0, 0, 1, 1),
            ["1 device", "1 host, tensor 2", "tensor 4", "pipeline 2 x tensor 2", "pipeline 4"],
        ),
    ],
)
def test_ways_are_those_that_the_ranks_allow(hosts: tuple[int, ...], names: list[str]) -> None:
    assert [way.name for way in ways(hosts)] == names


def test_a_group_has_eight_ranks_at_most() -> None:
    names = [way.name for way in ways((*(0,) * 8, *(1,) * 8))]
    assert (
        names[:3] == ["1 device", "1 host, tensor 8", "pipeline 2 x tensor 8"] and names[-1] == "pipeline 16"
    )


def test_stages_are_of_neighbours_and_a_number_of_them_leaves_the_others_out() -> None:
    (alone, one_host, both) = ways((0, 0, 1, 1), pipeline=2)
    assert (alone.ranks, one_host.ranks) == ((0,), (0, 1))
    assert both.placement.hosts == (0, 0, 1, 1) and both.placement.stages == (0, 0, 1, 1)
    assert (both.group(0), both.group(1)) == ((0, 1), (2, 3))


def test_one_device_takes_its_layers_the_rest_and_the_coordinator() -> None:
    found = predicted("1 device", cluster((0, 1)), rank(1 * MS, rest=3 * MS))
    assert found.decode.seconds == Seconds(device=near(11 * MS), dispatch=1 * MS)
    assert found.decode.tokens_per_second == pytest.approx(1 / (12 * MS))
    assert found.decode_far.seconds.total == pytest.approx(20 * MS)


def test_tensor_ranks_pay_each_exchange_and_two_ways_of_a_step() -> None:
    found = predicted("tensor 2", cluster((0, 1), dispatch=0.5 * MS), rank(1 * MS)).decode.seconds
    assert found.device == pytest.approx(8 * MS)
    assert found.dispatch == pytest.approx(1 * MS + 16 * 0.5 * MS)
    # The step to the other host and its answer are on their way too.
    assert found.latency == pytest.approx((16 + 2) * 2 * MS)
    assert found.bandwidth == pytest.approx(16 * 1000 / 1e6)
    assert found.limit == "latency"


@pytest.mark.parametrize(("wire", "part"), [("f32", 1.0), ("bf16", 0.5), ("q8", 0.2578125)])
def test_fewer_bytes_go_through_the_link_by_their_type(wire: str, part: float) -> None:
    found = predicted("tensor 2", cluster((0, 1), wire=wire), rank(1 * MS)).decode.seconds
    assert found.bandwidth == pytest.approx(part * 16 * 1000 / 1e6)


def test_the_slowest_rank_decides() -> None:
    hosts = cluster((0, 0))
    way = way_of("tensor 2", hosts.hosts)
    found = predict(way, shape(), hosts, {0: rank(1 * MS), 1: rank(3 * MS)}).decode.seconds
    assert found.device == pytest.approx(24 * MS) and found.latency == found.bandwidth == 0


def test_ranks_of_a_host_exchange_without_the_link() -> None:
    found = predicted("1 host, tensor 2", cluster((0, 0, 1, 1), inside=0.1 * MS), rank(1 * MS)).decode.seconds
    assert found == Seconds(device=near(8 * MS), dispatch=near(1 * MS + 16 * 0.1 * MS))


def test_large_sums_go_round_a_ring_where_that_is_quicker() -> None:
    hosts = (0, 1, 2, 3)
    link = Link(latency=1 * MS, bytes_per_second=1e6)
    small, large = (
        cluster(hosts, link).all_reduce((0, 1, 2, 3), num_bytes) for num_bytes in (1000, 1_000_000)
    )
    assert small == Seconds(latency=1 * MS, bandwidth=near(3 * MS))  # to three peers at once
    assert large == Seconds(latency=near(6 * MS), bandwidth=near(1.5))  # six turns of a quarter


def test_the_slowest_link_of_a_group_counts() -> None:
    slow = Link(latency=50 * MS, bytes_per_second=1e9)
    hosts = Cluster((0, 1, 2), Link(1 * MS, 1e9), {}, Cost(0.0), 0.0, links={(1, 2): slow})
    assert hosts.all_reduce((0, 1), 100).latency == 1 * MS
    assert hosts.all_reduce((0, 1, 2), 100).latency == 50 * MS
    assert hosts.answer((0, 2)).latency == 1 * MS


def test_one_text_goes_through_one_stage_after_the_other() -> None:
    found = predicted("pipeline 2", cluster((0, 1), dispatch=0.5 * MS), rank(1 * MS, rest=3 * MS))
    seconds = found.decode.seconds
    assert seconds.device == pytest.approx(11 * MS)
    assert seconds.latency == pytest.approx(2 * 2 * MS)  # activations there, the token back
    assert seconds.dispatch == pytest.approx(1 * MS + 0.5 * MS)
    assert seconds.bandwidth == pytest.approx(1000 / 1e6)


def test_stages_are_cut_where_the_slowest_is_quickest() -> None:
    found = predicted("pipeline 2", cluster((0, 1)), rank(1 * MS, rest=4 * MS))
    assert found.layers == (Span(0, 6), Span(6, 8))  # behind the last layer comes what takes as long as four
    hosts = cluster((0, 1))
    uneven = predict(way_of("pipeline 2", hosts.hosts), shape(), hosts, {0: rank(3 * MS), 1: rank(1 * MS)})
    assert uneven.layers == (Span(0, 2), Span(2, 8))


def test_several_texts_keep_the_stages_busy() -> None:
    fast = Link(0.0, 1e12)
    found = predicted("pipeline 2", cluster((0, 1), fast), rank(1 * MS)).together
    assert found.seconds.total == pytest.approx(9 * MS)  # once round, with the coordinator, is the longer one
    deep = predicted("pipeline 2", cluster((0, 1), fast), rank(10 * MS)).together
    assert deep.tokens_per_second == pytest.approx(4 / (81 * MS))
    alone = predicted("1 device", cluster((0, 1), fast), rank(10 * MS)).together
    assert alone.tokens_per_second == pytest.approx(4 / (81 * MS))  # rows of one step cost nothing here


def test_chunks_of_a_prompt_fill_and_drain_the_stages() -> None:
    fast = Link(0.0, 1e12)
    chunks = 8
    alone = predicted("1 device", cluster((0, 1), fast), rank(1 * MS, chunk=10 * MS), chunks).prefill
    staged = predicted("pipeline 2", cluster((0, 1), fast), rank(1 * MS, chunk=10 * MS), chunks).prefill
    assert alone is not None and staged is not None
    assert alone.seconds.total == pytest.approx(chunks * (80 * MS + 1 * MS))
    assert staged.seconds.total == pytest.approx((chunks + 1) * 40 * MS + 1 * MS)
    assert alone.tokens_per_second == pytest.approx(chunks * 16 / alone.seconds.total)


def test_stages_cut_a_chunk_into_steps() -> None:
    """One of 512 rows would have each stage wait for the other; it goes in four steps."""
    fast, large = Link(0.0, 1e12), 512
    staged = predicted("pipeline 2", cluster((0, 1), fast), rank(1 * MS, chunk=10 * MS), 1, large).prefill
    assert staged is not None
    assert staged.seconds.total == pytest.approx((4 + 1) * 10 * MS + 1 * MS, rel=1e-4)


def test_later_chunks_see_more_keys_and_only_the_last_has_logits() -> None:
    works = RankWork(work(1), work(1), {}, work(1.0, rest=-1.0), work(3.0, rest=5.0))
    found = [works.chunk(index, 3) for index in range(3)]
    assert [each.layers[0].device for each in found] == [1.0, 2.0, 3.0]
    assert [each.rest.device for each in found] == [-1.0, -1.0, 5.0]
    assert works.chunk(0, 1) is works.last_chunk


def test_a_prefill_that_is_not_known_is_not_predicted() -> None:
    unknown = RankWork(work(1), work(1), dict.fromkeys((2, 4), work(1)), None, None)
    assert predicted("1 device", cluster((0, 1)), unknown).prefill is None


def test_texts_together_are_dealt_out_as_is_quickest() -> None:
    """A step of two rows takes about as long as one of four, and the later stage is the busier one."""
    way, hosts, decode = way_of("pipeline 2", (0, 0)), cluster((0, 0)), work(1 * MS, rest=4 * MS)

    def together(four: Work) -> float:
        each = RankWork(decode, decode, {2: decode, 4: four}, work(1 * MS), work(1 * MS))
        found = predict(way, shape(), hosts, dict.fromkeys(way.ranks, each))
        assert found.layers == (Span(0, 5), Span(5, 8))  # half of the rest counts, as in a run
        return found.together.seconds.total

    assert together(work(1.01 * MS, rest=4 * MS)) == pytest.approx((12.08 + 1) * MS)  # one after the other
    assert together(work(1.5 * MS, rest=4 * MS)) == pytest.approx(2 * 7 * MS)  # twice the busier stage
