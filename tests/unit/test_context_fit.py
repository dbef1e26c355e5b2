"""The context and the rows that are chosen: the largest that fit, and the place that is the limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples
from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import Arrangement, arrange, say_arrangement
from tplaunch.launcher.fitting.context_fit import (
    DEFAULT_CONTEXT,
    MAX_WORK_BYTES,
    MAX_WORK_BYTES_OF_CARDS,
    MIN_ROWS,
)
from tplaunch.launcher.fitting.fit import bytes_in, rank_needs
from tplaunch.launcher.fitting.kv_sizes import BLOCK_LENGTH
from tplaunch.launcher.fitting.memory_places import HOST, memory_places
from tplaunch.launcher.model import Model, open_model

MIB = 1 << 20
TRAINED = 131072  # of every shape
NUMPY = DeviceChoice(None, "numpy")


def gpu(index: int, memory_bytes: float, **changes: Any) -> DeviceChoice:
    return DeviceChoice(index, f"gpu {index}", on_cpu=False, memory_bytes=int(memory_bytes), **changes)


def arranged(
    choices: Sequence[DeviceChoice], shape: str = "llama-160m", **changes: Any
) -> tuple[RunConfig, Model, Arrangement]:
    config = config_of(RandomModel(shape, "Q8_0"), **changes)
    model = open_model(config)
    return config, model, arrange(config, model, choices)


def has_room(choices: Sequence[DeviceChoice], shape: str, limits: Limits) -> bool:
    """Returns true if every place has room, worked out from the whole plan again."""
    config, model, found = arranged([gpu(0, 1 << 50)] * len(choices), shape)
    needs = rank_needs(model.spec, model.tensors, found.plan, choices)
    needed = [rank.bytes(limits) for rank in needs]
    return all(place.has_room(bytes_in(place, needed)) for place in memory_places(choices, config.max_memory))


@given(
    memory=st.lists(st.integers(170, 3000), min_size=1, max_size=4),
    kv_type=st.sampled_from(["f16", "f32", "q8_0"]),
    rows=st.sampled_from([None, 1, 64, 512]),
)
@examples(25)
def test_the_context_is_the_largest_that_fits(memory: list[int], kv_type: str, rows: int | None) -> None:
    choices = [gpu(index, (mib + 128) * MIB) for index, mib in enumerate(memory)]
    try:
        _, _, found = arranged(choices, kv_type=kv_type, max_rows=rows)
    except UsageError as error:
        assert "the plan does not fit: device" in str(error)
        return
    limits, sizes = found.limits, found.sizes
    assert sizes.largest_context == limits.context_length <= TRAINED
    assert limits.num_blocks * BLOCK_LENGTH == limits.context_length
    if not has_room(choices, "llama-160m", limits):
        return  # it needs what would else be left in reserve
    if limits.context_length == TRAINED:
        assert sizes.limited_by is None
        return
    longer = limits.context_length + BLOCK_LENGTH
    more = dataclasses.replace(limits, context_length=longer, num_blocks=longer // BLOCK_LENGTH)
    assert not has_room(choices, "llama-160m", more)
    assert sizes.limited_by in {f"device {choice.index} ({choice.name})" for choice in choices}


def test_the_trained_context_is_taken_where_it_fits() -> None:
    _, _, found = arranged([gpu(0, 24e9)])
    assert found.limits.context_length == found.sizes.largest_context == TRAINED
    assert found.sizes.limited_by is None


def test_the_fuller_device_is_named() -> None:
    _, _, found = arranged([gpu(0, 24e9), gpu(1, 1e9)], tensor_split=(1.0, 3.0))
    assert found.sizes.limited_by == "device 1 (gpu 1)"
    _, _, found = arranged([gpu(0, 8e8), gpu(1, 24e9)])
    assert found.sizes.limited_by == "device 0 (gpu 0)"


def test_two_ranks_on_a_device_share_its_memory() -> None:
    alone = arranged([gpu(0, 8e8), gpu(1, 8e8)])[2].limits.context_length
    shared = arranged([gpu(0, 8e8)] * 2)[2].limits.context_length
    assert 32 <= shared < 0.6 * alone


def test_what_is_in_use_already_is_not_counted_on() -> None:
    free = arranged([gpu(0, 1.5e9)])[2].limits.context_length
    busy = arranged([gpu(0, 1.5e9, available_bytes=int(1e9))])[2].limits.context_length
    assert 32 <= busy < 0.7 * free


def test_no_buffer_is_larger_than_a_device_allocates() -> None:
    _, model, found = arranged([gpu(0, 24e9, max_allocation=32 * MIB)])
    cells = (
        found.limits.num_blocks
        * BLOCK_LENGTH
        * model.spec.attentions[0].num_kv_heads
        * model.spec.attentions[0].key_length
    )
    assert 31 * MIB < 2 * cells <= 32 * MIB
    assert found.sizes.limited_by == "device 0 (gpu 0), for one buffer of rank 0"


def test_a_users_context_is_taken_as_it_is() -> None:
    for context in (1, 33, 4096, 200_000):
        _, _, found = arranged([gpu(0, 24e9)], context_length=context)
        assert found.limits.context_length == context
        assert found.sizes.largest_context == TRAINED
    with pytest.raises(UsageError, match=r"lower --context \(now 100000\)"):
        arranged([gpu(0, 1e9)], context_length=100_000)


def test_a_context_is_cut_short_of_the_reserve_but_not_refused() -> None:
    """A device that has room only if nothing is left in reserve is used all the same."""
    exact = arranged([gpu(0, 1 << 50)], context_length=64)[2].bytes[0].own
    _, _, found = arranged([gpu(0, exact)])
    assert found.limits.context_length == 64
    with pytest.raises(UsageError, match=r"give it less with --tensor-split .*, or name more devices$"):
        arranged([gpu(0, exact - 2 * MIB)])


def test_a_cache_does_not_take_all_the_machines_memory() -> None:
    for choices in ([NUMPY], [DeviceChoice(0, "llvmpipe")], [NUMPY, gpu(0, 24e9)]):
        _, _, found = arranged(choices, "tiny")
        assert found.limits.context_length == found.sizes.largest_context == TRAINED
    _, _, found = arranged([NUMPY], max_memory={None: 500 * MIB})
    assert found.limits.context_length == found.sizes.largest_context
    assert BLOCK_LENGTH <= found.limits.context_length < TRAINED
    assert found.sizes.limited_by == HOST


def test_devices_that_are_not_here_get_the_default() -> None:
    unknown = DeviceChoice(0, "0", on_cpu=False)
    _, _, found = arranged([unknown])
    assert (found.limits.context_length, found.sizes.largest_context) == (DEFAULT_CONTEXT, None)
    _, _, found = arranged([unknown], max_memory={0: 1 << 30})
    assert found.limits.context_length == found.sizes.largest_context
    assert DEFAULT_CONTEXT < found.limits.context_length < TRAINED


# Rows.


def work_of(found: Arrangement) -> int:
    return max(rank.work for rank in found.bytes)


@pytest.mark.parametrize(
    ("shape", "num_ranks", "context", "rows"),
    [
        ("llama-160m", 1, 4096, 512),
        ("llama-3.2-1b", 1, 4096, 512),
        ("llama-3.1-8b", 1, 4096, 512),
        ("llama-3.1-8b", 1, 131072, 256),
        ("llama-3.3-70b", 1, 4096, 256),
        ("llama-3.3-70b", 2, 4096, 512),
        ("llama-3.3-70b", 4, 4096, 512),
    ],
)
def test_work_on_cards_stays_within_160_mb(shape: str, num_ranks: int, context: int, rows: int) -> None:
    choices = [gpu(index, 1 << 40) for index in range(num_ranks)]
    _, _, found = arranged(choices, shape, context_length=context)
    assert found.limits.max_rows == rows
    assert work_of(found) <= MAX_WORK_BYTES_OF_CARDS
    if rows < 512:
        _, _, twice = arranged(choices, shape, context_length=context, max_rows=2 * rows)
        assert work_of(twice) > MAX_WORK_BYTES_OF_CARDS


@pytest.mark.parametrize(("shape", "rows"), [("llama-160m", 256), ("llama-3.2-1b", 256)])
def test_a_rank_on_a_cpu_has_less_work_at_once(shape: str, rows: int) -> None:
    _, _, found = arranged([gpu(0, 1 << 40), NUMPY], shape, context_length=4096, tensor_split=(3, 1))
    assert found.limits.max_rows == rows
    assert work_of(found) <= MAX_WORK_BYTES


def test_a_user_may_take_more_rows() -> None:
    _, _, found = arranged([gpu(0, 1 << 40)], "llama-3.3-70b", context_length=4096, max_rows=512)
    assert found.limits.max_rows == 512 and found.limits.max_logit_rows == 32
    assert arranged([gpu(0, 1 << 40)], max_rows=7)[2].limits.max_logit_rows == 7


def test_rows_do_not_get_few_for_a_long_context() -> None:
    huge = dataclasses.replace(SHAPES["llama-3.3-70b"].spec, context_length=1 << 22)
    config = config_of(RandomModel("llama-3.3-70b", "Q8_0"))
    model = dataclasses.replace(open_model(config), spec=huge)
    found = arrange(config, model, [gpu(0, 1 << 50)])
    assert found.limits.context_length == 1 << 22
    assert found.limits.max_rows == MIN_ROWS


# What is said.


def said(capsys: pytest.CaptureFixture[str], choices: list[DeviceChoice], **changes: Any) -> str:
    config, model, found = arranged(choices, **changes)
    say_arrangement(config, model, found)
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_the_context_is_said_in_one_line_where_it_is_not_the_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_of_it = "largest context that fits: 131072, all that the model was trained for\n"
    assert said(capsys, [gpu(0, 24e9)]) == ""
    assert said(capsys, [gpu(0, 24e9)], context_length=131072) == ""
    assert said(capsys, [gpu(0, 24e9)], verbose=True) == f"tplaunch: context 131072; {all_of_it}"
    assert said(capsys, [gpu(0, 24e9)], context_length=99) == f"tplaunch: context 99; {all_of_it}"
    text = said(capsys, [gpu(0, 8e8), gpu(1, 24e9)])
    assert text.startswith("tplaunch: context ") and text.count("\n") == 1
    assert text.endswith("that the model was trained for: device 0 (gpu 0) has no room for more\n")
    text = said(capsys, [NUMPY], max_memory={None: 500 * MIB})
    assert text.startswith("tplaunch: context ") and text.endswith(f": {HOST} has no room for more\n")
    text = said(capsys, [DeviceChoice(0, "0", on_cpu=False)])
    assert text.endswith("largest context that fits: not known: a device does not say how much it holds\n")


def test_a_context_beyond_the_trained_one_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    """It fits, so what is said is not that a smaller one does."""
    said_of_it = said(capsys, [gpu(0, 80e9)], context_length=200_000)
    assert said_of_it == (
        "tplaunch: context 200000: the model was trained for only 131072: what it writes beyond may be poor\n"
    )


@pytest.mark.parametrize(
    ("activations", "changes", "sentence"),
    [
        ("f16", {"lacks": frozenset({"f16"})}, "gpu 0.* has no cooperative matrices of float16"),
        ("q8", {"lacks": frozenset({"f16", "q8"})}, "gpu 0.* has no integer dot product; use --activations"),
    ],
)
def test_activations_that_a_device_lacks_are_refused(
    activations: str, changes: dict[str, Any], sentence: str
) -> None:
    lacking = dataclasses.replace(gpu(0, 24e9), **changes)
    assert arranged([lacking, NUMPY])
    assert arranged([gpu(0, 24e9), NUMPY], activations=activations)
    with pytest.raises(UsageError, match=sentence):
        arranged([gpu(1, 24e9), lacking], activations=activations)


def test_activations_that_devices_are_to_do_without_are_refused() -> None:
    lacking: dict[str, Any] = {"activations": "q8", "without": ("integer_dot_product",)}
    assert arranged([NUMPY], **lacking)
    with pytest.raises(UsageError, match="has no integer dot product"):
        arranged([gpu(0, 24e9)], **lacking)


def test_the_demo_model_is_no_surprise() -> None:
    """All that it was trained for, whatever the device."""
    path = Path(__file__).parents[2] / "examples/demo-stories.gguf"
    config = config_of(path)
    model = open_model(config)
    assert arrange(config, model, [NUMPY] * 2).limits.context_length == model.spec.context_length
