"""Compares the needs of ranks with the memory there is, and tests the limits a command works within."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples, make_spec, tensor_infos, tensor_shapes, write_llama
from tests.unit.collectives_group import connected
from tplaunch.collectives import KINDS, Collective, arena_bytes, create, shares_arena
from tplaunch.coordinator.serving.prompt_check import check_prompt
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError, make_plan
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.fitting.fit import RankNeeds, bytes_in, check_fit, mebibytes, rank_needs
from tplaunch.launcher.fitting.memory_places import memory_places
from tplaunch.launcher.model import Model, open_model
from tplaunch.worker.buffers.sums import slot_bytes

ON_CPU = DeviceChoice(1, "llvmpipe", on_cpu=True)
NUMPY = DeviceChoice(None, "numpy")
SPEC = make_spec()
TENSORS = tensor_infos(tensor_shapes(SPEC))
LIMITS = Limits(context_length=64, num_blocks=2, max_rows=8, max_logit_rows=8)


def check(choices: list[DeviceChoice], limits: Limits = LIMITS, **max_memory: int) -> None:
    needs = rank_needs(SPEC, TENSORS, make_plan(SPEC, [1] * len(choices)), choices)
    caps = {None if key == "cpu" else int(key.removeprefix("of_")): size for key, size in max_memory.items()}
    check_fit(needs, limits, memory_places(choices, caps), choices)


def total(share_of: int = 2, rank: int = 0) -> int:
    share = make_plan(SPEC, [1] * share_of)[rank]
    return RankNeeds(SPEC, TENSORS, share, share_of).bytes(LIMITS).own


def gpu(index: int, memory_bytes: int, **changes: Any) -> DeviceChoice:
    return DeviceChoice(index, f"gpu {index}", on_cpu=False, memory_bytes=memory_bytes, **changes)


def test_a_plan_that_does_not_fit_is_refused_with_its_numbers() -> None:
    exact = [gpu(rank, total(2, rank)) for rank in (0, 1)]
    check(exact)
    short = [exact[0], gpu(1, total(2, 1) - 1)]
    with pytest.raises(UsageError) as caught:
        check(short)
    assert str(caught.value) == (
        f"the plan does not fit: device 1 (gpu 1) would hold {mebibytes(total(2, 1))}, but has"
        f" {mebibytes(total(2, 1) - 1)}; give it less with --tensor-split (auto finds out how much), name"
        " more devices, or lower --context (now 64)"
    )


def test_a_buffer_that_is_too_large_is_refused_with_its_numbers() -> None:
    largest = 2 * 32 * 2 * 8 * 2  # a layer's keys; of gates and ups 16 KiB lie in several buffers
    check([gpu(0, 1 << 40, max_allocation=largest)])
    with pytest.raises(UsageError) as caught:
        check([gpu(0, 1 << 40, max_allocation=largest - 1)])
    assert str(caught.value).startswith(
        "the plan does not fit: device 0 (gpu 0) allocates at most 0.0 MiB at"
    )


def test_what_a_user_allows_is_the_limit() -> None:
    large = [gpu(0, 1 << 40), gpu(1, 1 << 40)]
    check(large, of_0=total(), of_1=total(2, 1))
    with pytest.raises(
        UsageError, match=r"device 1 \(gpu 1\) would hold .*, but may hold .* \(--max-memory\)"
    ):
        check(large, of_1=total(2, 1) - 1)
    with pytest.raises(UsageError, match=r"this machine's memory would hold .*, but may hold 0\.0 MiB"):
        check([NUMPY, ON_CPU], cpu=1000)
    with pytest.raises(UsageError, match=r"device 1 \(llvmpipe\) would hold .* \(--max-memory\)"):
        check([NUMPY, ON_CPU], of_1=1000)
    check([gpu(0, total())] * 1 + [gpu(1, 1 << 40)], of_0=1 << 50)  # more than there is changes nothing


def test_ranks_on_one_device_are_added_up() -> None:
    needed = total(2, 0) + total(2, 1)
    check([gpu(0, needed)] * 2)
    with pytest.raises(UsageError, match=r"device 0 \(gpu 0\) would hold"):
        check([gpu(0, needed - 1)] * 2)


def test_ranks_on_the_cpu_share_the_machines_memory() -> None:
    check([NUMPY, ON_CPU])
    blocks = (
        psutil.virtual_memory().total
        // 32
        // SPEC.attentions[0].num_kv_heads
        // SPEC.attentions[0].key_length
        // 2
    )
    huge = dataclasses.replace(LIMITS, num_blocks=blocks)
    with pytest.raises(UsageError, match="this machine's memory would hold"):
        check([NUMPY, ON_CPU], huge)
    integrated = gpu(1, 1 << 50, integrated=True)
    with pytest.raises(UsageError, match="this machine's memory would hold"):
        check([NUMPY, integrated], huge)


ARENA = 2 * 4096  # bytes for each rank's partial sums: two parities of a page, of which LIMITS need a part


def sums(choices: list[DeviceChoice], **options: Any) -> list[int]:
    needs = rank_needs(SPEC, TENSORS, make_plan(SPEC, [1] * len(choices)), choices, **options)
    return [rank.bytes(LIMITS).partials for rank in needs]


def test_partial_sums_are_counted_as_they_are_allocated() -> None:
    importing = gpu(0, 1 << 40, imports_memory=True)
    copying = gpu(1, 1 << 40)
    assert sums([NUMPY] * 3) == [3 * ARENA, 0, 0]  # one arena for all
    assert sums([importing] * 3) == [3 * ARENA, 0, 0]
    assert sums([importing, copying, copying]) == [3 * ARENA] * 3  # and their copies
    assert sums([importing] * 3, staging=True) == [6 * ARENA, 3 * ARENA, 3 * ARENA]
    assert sums([NUMPY] * 3, staging=True) == [3 * ARENA, 0, 0]
    assert sums([importing, copying, NUMPY], collective="zmq-ring") == [ARENA, 2 * ARENA, ARENA]
    assert sums([copying]) == [2 * ARENA] and sums([NUMPY], collective="zmq-ring") == [ARENA]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_an_arena_is_as_large_as_is_counted(kind: str, num_ranks: int) -> None:
    needed = slot_bytes(SPEC, LIMITS)
    with connected(kind, num_ranks, slot_bytes=needed) as ranks:
        for rank in ranks:
            assert rank.arena.nbytes == arena_bytes(kind, rank.rank, [0] * num_ranks, needed)
        starts = {rank.partials(0).sum() for rank in fill(ranks)}
        assert (len(starts) == 1) == (shares_arena(kind) or num_ranks == 1)


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1), (0, 1, 1, 2), (0, 0, 0, 1)], ids=str)
def test_an_arena_of_several_hosts_is_as_large_as_is_counted(hosts: tuple[int, ...]) -> None:
    def make(**arguments: Any) -> Collective:
        return create("shared-memory", hosts=hosts, **arguments)

    needed = slot_bytes(SPEC, LIMITS)
    with connected(make, len(hosts), slot_bytes=needed) as ranks:
        for rank in ranks:
            assert rank.arena.nbytes == arena_bytes("shared-memory", rank.rank, hosts, needed)


def test_every_host_has_an_arena_of_its_own() -> None:
    there = dataclasses.replace(NUMPY, host=1)
    assert sums([NUMPY, there]) == [2 * ARENA, 2 * ARENA]
    assert sums([NUMPY, NUMPY, there]) == [4 * ARENA, 0, 2 * ARENA]
    assert sums([NUMPY, there, there]) == [2 * ARENA, 4 * ARENA, 0]


def fill(ranks: list[Collective]) -> list[Collective]:
    """Each with numbers of its own, where they do not share an arena."""
    for rank in ranks:
        rank.partials(0)[:] = rank.rank
    return ranks


def test_partial_sums_take_of_the_hosts_memory_alone() -> None:
    cards = [gpu(rank, total(2, rank)) for rank in (0, 1)]
    check(cards)  # which have no byte to spare
    mixed = [gpu(0, 1 << 40), NUMPY]
    plan = make_plan(SPEC, [1, 1])
    found = [rank.bytes(LIMITS) for rank in rank_needs(SPEC, TENSORS, plan, mixed)]
    assert [rank.partials for rank in found] == [4 * ARENA, 0]
    card, host = memory_places(mixed, {})
    assert bytes_in(card, found) == found[0].own
    assert bytes_in(host, found) == found[1].own + 4 * ARENA
    check(mixed, cpu=bytes_in(host, found))
    with pytest.raises(UsageError, match="this machine's memory would hold"):
        check(mixed, cpu=bytes_in(host, found) - 1)


@given(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=8).filter(any))
@examples(30)
def test_weights_of_all_ranks_are_the_models(weights: list[float]) -> None:
    """Nothing is counted twice but what is replicated, and nothing left out."""
    plan = make_plan(SPEC, weights)
    needs = [RankNeeds(SPEC, TENSORS, share, len(plan)) for share in plan]
    in_file = sum(info.nbytes for name, info in TENSORS.items() if name != "token_embd.weight")
    assert sum(rank.bytes(LIMITS).weights for rank in needs) >= in_file
    longer = dataclasses.replace(LIMITS, num_blocks=4)
    for share, rank in zip(plan, needs, strict=True):
        cache = rank.bytes(LIMITS).cache
        assert (
            cache == len(share.layers[0].kv_heads) * 2 * 2 * 64 * 8 * 2
        )  # layers, K and V, positions, length, bytes
        assert rank.bytes(longer).cache == 2 * cache


def test_numpy_needs_copies_in_float32() -> None:
    share = make_plan(SPEC, [1])[0]
    tensors = tensor_infos(tensor_shapes(SPEC), {"ffn_down.weight": "F16", "output.weight": "F16"})
    plain = RankNeeds(SPEC, tensors, share, 1).bytes(LIMITS)
    widened = RankNeeds(SPEC, tensors, share, 1, in_numpy=True).bytes(LIMITS)
    halves = sum(info.nbytes for info in tensors.values() if info.type == "F16")
    assert plain.copies == 0 and abs(widened.copies - halves - 2 * plain.cache) < 2000  # padding
    assert widened.total == plain.total + widened.copies


# The model and the prompt.


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_llama(tmp_path / "m.gguf", make_spec(context_length=100))
    return open_model(config_of(tmp_path / "m.gguf"))


def limits_of(model: Model, **changes: Any) -> Limits:
    config = config_of(Path(model.origin.parts[0].path), **changes)
    return arrange(config, model, [NUMPY]).limits


def test_limits_come_from_the_options_and_the_model(model: Model) -> None:
    assert limits_of(model, context_length=33) == Limits(33, num_blocks=2, max_rows=256, max_logit_rows=32)
    few = limits_of(model, max_rows=7, kv_type="f32")
    assert few == Limits(100, num_blocks=4, max_rows=7, max_logit_rows=7, kv_type="f32")
    assert limits_of(model, context_length=5000).context_length == 5000
    with pytest.raises(UsageError, match="--context 2147483648: at most 2147483647 positions"):
        limits_of(model, context_length=2**31)


def test_prompts_that_cant_be_run(model: Model) -> None:
    spec = model.spec
    check_prompt([0, 47] * 16, spec, 33)
    check_prompt([0, 47] * 16 + [1], spec, 33, continues=False)
    too_long = r"33 tokens, and the context of 33 has room for 32: 1 too many; .* trained for 100\)"
    with pytest.raises(RequestError, match=too_long):
        check_prompt([0, 47] * 16 + [1], spec, 33)
    with pytest.raises(RequestError, match="the prompt is empty"):
        check_prompt([], spec, 33)
    for wrong in (-1, 48, 10**20):
        with pytest.raises(RequestError, match=f"has the token {wrong}; this model has 0 to 47"):
            check_prompt([1, wrong, 99], spec, 33)
    with pytest.raises(RequestError, match="34 tokens, and the context of 33 has room for 33: 1 too many"):
        check_prompt([1] * 34, spec, 33, continues=False)


def test_the_plan_follows_the_options(model: Model) -> None:
    config = config_of(Path(model.origin.parts[0].path), tensor_split=(1.0, 3.0))
    assert arrange(config, model, [NUMPY] * 2).plan == make_plan(model.spec, [1, 3])
    config = dataclasses.replace(config, tensor_split=(1.0, float("nan")))
    with pytest.raises(PlanError, match="a rank weight of nan"):
        arrange(config, model, [NUMPY] * 2)
