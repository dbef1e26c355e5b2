"""Tests the sizes of sequences' memory: blocks for windows and several sequences, snapshots."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples
from tplaunch.coordinator.split.limits import Limits
from tplaunch.launcher.cli import main
from tplaunch.launcher.config import RandomModel
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import Arrangement, arrange
from tplaunch.launcher.fitting.context_fit import most_that
from tplaunch.launcher.fitting.kv_sizes import BLOCK_LENGTH, full_blocks, window_blocks
from tplaunch.launcher.model import open_model
from tplaunch.launcher.sizes import parse_state_cache

GIB, MIB = 1 << 30, 1 << 20
GEMMA, QWEN = "gemma-3-270m", "qwen3.5-0.8b"


def arranged(shape: str, memory_bytes: float = 1 << 40, num_ranks: int = 1, **changes: Any) -> Arrangement:
    choices = [
        DeviceChoice(index, f"gpu {index}", on_cpu=False, memory_bytes=int(memory_bytes))
        for index in range(num_ranks)
    ]
    config = config_of(RandomModel(shape, "Q8_0"), **changes)
    return arrange(config, open_model(config), choices)


def limits_of(shape: str, **changes: Any) -> Limits:
    return arranged(shape, **changes).limits


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any], str]:
    """Returns the plan of `tplaunch plan`, as JSON and as text."""
    words = ["plan", "--devices=numpy", *options]
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    return found, " ".join(capsys.readouterr().out.split())


def test_the_cache_of_gemma_3_takes_a_fifth(capsys: pytest.CaptureFixture[str]) -> None:
    found, text = planned(capsys, f"--shape={GEMMA}", "--context=32768")
    assert found["kv_bytes_without_windows"] == 18 * 32768 * 2 * 256 * 2
    assert found["kv_bytes"] <= 0.25 * found["kv_bytes_without_windows"]
    assert (found["kv_positions"], found["window_kv_positions"]) == (32768, 1344)
    assert found["kv_bytes"] == found["ranks"][0]["cache_bytes"]
    assert "15 of 18 layers with attention have a window of at most 512" in text
    assert "hold 1344 positions: the KV cache takes 115.7 MiB, 20.1% of what it would without" in text


@given(st.integers(1, 10_000), st.integers(1, 40_000), st.integers(0, 20), st.integers(1, 512))
@examples(100)
def test_window_blocks_suffice_and_are_never_more_than_without_windows(
    window: int, context: int, further: int, rows: int
) -> None:
    found = window_blocks(window, context, further, rows)
    assert 1 <= found <= full_blocks(context, further)
    # One sequence alone gets through any chunk: its window and the chunk's rows, however they lie in blocks.
    assert found * BLOCK_LENGTH >= min(context, window + rows + 2 * BLOCK_LENGTH - 2)


def test_sequences_at_once_have_room_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    limits = limits_of("llama-160m", context_length=8192, parallel=8)
    assert (limits.max_sequences, limits.num_blocks) == (8, (8192 + 7 * 1024) // 32)
    assert limits_of("llama-160m", context_length=100, parallel=3).num_blocks == 3 * 4
    assert limits_of("llama-160m", context_length=8192).num_blocks == 256
    limits = limits_of(GEMMA, context_length=8192, parallel=4)
    assert limits.num_window_blocks == 4 * 33 + 16 + 1
    assert limits.max_logit_rows == 32
    assert limits_of("llama-160m", parallel=50).max_logit_rows == 50
    found, text = planned(capsys, "--shape=llama-160m", "--context=8192", "--parallel=8")
    assert (found["parallel"], found["kv_positions"]) == (8, 15360)
    assert "KV cache: 15360 positions of 8 sequences at once" in text


def test_further_sequences_get_what_the_context_leaves() -> None:
    """They are not worth a shorter context, and each has all of its positions or none."""
    one = arranged("llama-160m", context_length=8192)
    own = one.bytes[0].own
    reserve = 128 * MIB
    per_sequence = 1024 * 12 * 2 * 4 * 64 * 2
    many = arranged("llama-160m", own + 3.5 * per_sequence + reserve, context_length=8192, parallel=8)
    assert many.limits.num_blocks == (8192 + 3 * 1024) // 32
    assert many.limits.max_sequences == 8
    none = arranged("llama-160m", own + reserve + MIB, context_length=8192, parallel=8)
    assert none.limits.num_blocks == 8192 // 32
    assert arranged("llama-160m", 8e8).limits == arranged("llama-160m", 8e8, parallel=1).limits


def test_models_that_see_no_key_or_only_windows_have_no_full_blocks() -> None:
    assert limits_of(QWEN).num_window_blocks == 0 < limits_of(QWEN).num_blocks
    config = config_of(RandomModel(GEMMA, "Q8_0"), context_length=4096)
    model, choice = open_model(config), DeviceChoice(0, "gpu 0", on_cpu=False, memory_bytes=1 << 40)
    all_windowed = dataclasses.replace(model.spec, layers=(model.spec.layers[0],) * 18)
    limits = arrange(config, dataclasses.replace(model, spec=all_windowed), [choice]).limits
    assert (limits.num_blocks, limits.num_window_blocks) == (0, 33 + 16 + 1)
    config = config_of(RandomModel(QWEN, "Q8_0"), context_length=4096)
    model = open_model(config)
    all_recurrent = dataclasses.replace(model.spec, layers=(model.spec.layers[0],) * 3)
    limits = arrange(config, dataclasses.replace(model, spec=all_recurrent), [choice]).limits
    assert (limits.num_blocks, limits.num_window_blocks) == (0, 0)


# States.


def snapshots_of(arrangement: Arrangement) -> int:
    return arrangement.limits.num_slots - arrangement.limits.max_sequences


def test_snapshots_take_the_memory_they_are_given() -> None:
    found = arranged(QWEN, num_ranks=2)
    states = sum(rank.states for rank in found.bytes)
    one = states // found.limits.num_slots
    assert snapshots_of(found) == GIB // one == 53
    assert snapshots_of(arranged(QWEN, state_cache_bytes=GIB // 4)) == GIB // 4 // one
    assert snapshots_of(arranged(QWEN, state_cache_bytes=1)) == 2
    assert snapshots_of(arranged(QWEN, state_cache_bytes=0)) == 0
    assert snapshots_of(arranged(QWEN, state_cache_bytes=0, parallel=3)) == 0
    many = arranged(QWEN, parallel=5)
    assert snapshots_of(many) == 53 and many.limits.num_slots == 58
    assert limits_of("llama-160m", state_cache_bytes=GIB).num_slots == 0


def test_there_are_no_more_snapshots_than_ends_of_blocks() -> None:
    assert snapshots_of(arranged(QWEN, context_length=64)) == 2 + 2
    assert snapshots_of(arranged(QWEN, context_length=64, parallel=2)) == 4 + 4


def test_snapshots_get_what_the_context_leaves() -> None:
    least = arranged(QWEN, context_length=8192, state_cache_bytes=1)
    one = least.bytes[0].states // least.limits.num_slots
    room = least.bytes[0].own + 128 * MIB
    assert snapshots_of(arranged(QWEN, room + 5.5 * one, context_length=8192)) == 7
    assert snapshots_of(arranged(QWEN, room + one / 2, context_length=8192)) == 2
    # Where there is no room for two, the model runs without.
    assert snapshots_of(arranged(QWEN, room - 128 * MIB - one, context_length=8192)) == 0
    # Of a device that does not say what it holds, only what must be is taken.
    config = config_of(RandomModel(QWEN, "Q8_0"))
    unknown = arrange(config, open_model(config), [DeviceChoice(0, "0", on_cpu=False)])
    assert snapshots_of(unknown) == 2


def test_the_plan_says_what_is_kept_of_states(capsys: pytest.CaptureFixture[str]) -> None:
    found, text = planned(capsys, f"--shape={QWEN}", "--context=4096", "--state-cache=200MiB")
    assert found["state_snapshots"] == 10
    assert found["state_bytes"] == 11 * 20_201_472 == found["ranks"][0]["state_bytes"]
    assert "recurrent states: 19.3 MiB each, of 1 running and 10 kept for prompts that begin alike" in text
    assert "(--state-cache)" in text


# Options.


@pytest.mark.parametrize("parallel", [0, -1, 1025])
def test_impossible_numbers_of_sequences_are_refused(parallel: int) -> None:
    with pytest.raises(UsageError, match=f"--parallel {parallel}: 1 to 1024 sequences are possible"):
        config_of(RandomModel("tiny", "F32"), parallel=parallel)


def test_sizes_of_the_state_cache() -> None:
    assert parse_state_cache("1GiB") == GIB and parse_state_cache("0") == 0
    with pytest.raises(UsageError, match="--state-cache: 'much' is no size; a size such as 1GiB is needed"):
        parse_state_cache("much")


@given(st.integers(-1, 50), st.integers(0, 60))
@examples(60)
def test_the_most_that_is_possible(most: int, limit: int) -> None:
    assert most_that(most, lambda count: count <= limit) == max(0, min(most, limit))
