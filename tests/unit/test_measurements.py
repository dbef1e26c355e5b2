"""The cache of measurements: what is kept is found again, and what is damaged never hurts."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.coordinator.options import FEATURES, OptionError, RankOptions
from tplaunch.shaders.load import kernel_names, kernels_hash
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.measuring import measurements as measurements_module
from tplaunch.worker.measuring.measurements import FORMAT, MAX_FILE_BYTES, Measurements, cache_folder, lowest
from tplaunch.worker.vulkan.push_constants.kernels import KERNELS
from tplaunch.worker.vulkan.variants import FAMILIES, LANES, Selection, candidates, kernel_of

DEVICE = {"name": "a GPU", "uuid": "00ff", "driver": "its driver 1.0"}
NUMBERS = {"_wide": 1.5e-4, "": 2e-4, "_new": None}


def opened(folder: Path | None, kernels: str = "aa", **device: str) -> Measurements:
    return Measurements(folder, {**DEVICE, **device}, kernels)


def kept(folder: Path) -> Path:
    """The file of one measurement."""
    measurements = opened(folder)
    measurements.put("matvec", NUMBERS)
    measurements.save()
    assert measurements.path is not None and measurements.is_kept
    return measurements.path


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    kept(tmp_path / "a" / "b")
    found = opened(tmp_path / "a" / "b")
    assert found.get("matvec") == NUMBERS and not found.new
    assert found.get("matmul") == {}
    found.put("matvec", {"": 3e-4})
    assert found.get("matvec") == {**NUMBERS, "": 3e-4}


def test_files_are_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = kept(tmp_path / "tplaunch")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_devices_and_drivers_have_files_of_their_own_and_kernels_have_not(tmp_path: Path) -> None:
    path = kept(tmp_path)
    for change in ({"uuid": "00fe"}, {"driver": "its driver 1.1"}):
        other = opened(tmp_path, **change)
        assert other.path != path and not other.get("matvec")
    newer = opened(tmp_path, kernels="bb")
    assert newer.path == path and not newer.get("matvec")
    newer.put("matvec", {"": 1.0})
    newer.save()
    assert not opened(tmp_path).get("matvec")
    assert opened(tmp_path, kernels="bb").get("matvec") == {"": 1.0}


def test_two_ranks_that_save_at_the_same_time_keep_both(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.put("one", {"": 1.0})
    other.put("other", {"": 2.0})
    one.save()
    other.save()
    found = opened(tmp_path)
    assert (found.get("one"), found.get("other")) == ({"": 1.0}, {"": 2.0})


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"[" * 100_000,
        b" " * (MAX_FILE_BYTES + 1),
        {"measurements": 3},
        {"measurements": {"matvec": 3}},
        {"measurements": {"matvec": {"": "1"}}},
        {"measurements": {"matvec": {"": True}}},
        {"measurements": {"matvec": {"": -1.0}}},
        {"measurements": {"matvec": {"": float("nan")}}},
        {"measurements": {"matvec": {"": float("inf")}}},
        {"measurements": {"matvec": {"": 10**400}}},
        {"format": FORMAT - 1},
        {"kernels": None},
        {"device": "another"},
    ],
)
def test_a_damaged_file_is_measured_again(tmp_path: Path, change: bytes | dict[str, Any]) -> None:
    path = kept(tmp_path)
    if isinstance(change, dict):
        change = json.dumps({**json.loads(path.read_text()), **change}).encode()
    path.write_bytes(change)
    assert opened(tmp_path).get("matvec") == {}
    kept(tmp_path)
    assert opened(tmp_path).get("matvec") == NUMBERS


@given(st.binary(max_size=40) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr))
@examples(100)
def test_any_file_can_be_read(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    folder = tmp_path_factory.mktemp("cache")
    kept(folder).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert opened(folder).get("matvec") == {}


def test_a_cache_that_can_not_be_written_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", None):
        measurements = opened(folder)
        measurements.put("matvec", NUMBERS)
        measurements.save()
        assert measurements.get("matvec") == NUMBERS and not measurements.is_kept
    assert "is not kept" in caplog.text and "no home folder" in caplog.text


def test_the_folder_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for value, folder in (
        ("/cache", "/cache/tplaunch"),
        ("", "/home/someone/.cache/tplaunch"),
        ("relative", "/home/someone/.cache/tplaunch"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path(folder)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None


def test_the_lowest_number_wins_and_ties_go_to_the_first() -> None:
    order = ("a", "b", "c")
    assert lowest({"a": 1.0, "b": 0.9, "c": 0.8}, order) == "c"
    assert lowest({"a": 1.0, "b": 0.99, "c": 0.98}, order) == "a"
    assert lowest({"a": 1.1, "b": 1.0, "c": 0.98}, order) == "b"
    assert lowest({"a": None, "b": 3.0, "c": None, "unknown": 1.0}, order) == "b"


def test_the_first_option_is_taken_where_not_all_were_measured() -> None:
    for numbers in ({}, {"a": 2.0, "b": 1.0}, dict.fromkeys("abc")):
        found: dict[str, float | None] = dict(numbers)
        assert lowest(found, ("a", "b", "c")) == "a"


# The table of variants.


def test_every_variant_is_a_kernel_and_runs_somewhere_without_any_feature() -> None:
    names = {kernel_of(family, variant) for family, variants in FAMILIES.items() for variant in variants}
    compiled = {name for name in kernel_names() if name.startswith(tuple(FAMILIES))}
    assert names == compiled
    assert names <= KERNELS.keys()
    for family in FAMILIES:
        assert candidates(family, ()) or "matrices" in family  # floats are there instead
        assert set(candidates(family, (*FEATURES, "cpu", "card"))) == set(FAMILIES[family])
    assert {f"matvec_{name.lower()}" for name in FORMATS} <= FAMILIES.keys()
    assert len(kernels_hash()) == 64


def test_the_first_variant_runs_where_not_all_were_measured() -> None:
    first, *others = candidates("matvec_q8_0", FEATURES)
    for numbers in ({}, {others[0].suffix: 1.0}, {first.suffix: 2.0, "unknown": 1.0}):
        found: dict[str, float | None] = dict(numbers)
        assert Selection(FEATURES, lambda name, found=found: found).variant("matvec_q8_0") is first  # type: ignore[misc]


def test_features_to_do_without_are_known() -> None:
    with pytest.raises(OptionError, match="--without x87: known are int64, float16, "):
        RankOptions(without=("int64", "x87"))


def test_one_process_at_a_time_finds_out_and_the_next_one_reads(tmp_path: Path) -> None:
    """The other has opened the file before there was anything in it."""
    one, other = opened(tmp_path), opened(tmp_path)
    with one.locked():
        lock = one.path and one.path.with_suffix(".lock").open("wb")
        assert lock
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.put("matvec", NUMBERS)
        one.save()
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.close()
    with other.locked():
        assert other.get("matvec") == NUMBERS


def test_one_that_was_stopped_while_it_finds_out_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements_module, "MAX_WAIT_SECONDS", 0.2)
    one, other = opened(tmp_path), opened(tmp_path)
    with one.locked(), other.locked():
        other.put("matvec", NUMBERS)
        other.save()
    assert opened(tmp_path).get("matvec") == NUMBERS


def test_a_pipe_in_place_of_the_lock_is_not_waited_for(tmp_path: Path) -> None:
    measurements = opened(tmp_path)
    assert measurements.path
    os.mkfifo(measurements.path.with_suffix(".lock"))
    with measurements.locked():
        measurements.put("matvec", NUMBERS)


@pytest.mark.parametrize("place", [None, Path("/dev/null/there is no folder")])
def test_without_a_folder_no_one_waits(place: Path | None) -> None:
    measurements = Measurements(place, {"name": "a"}, "kernels")
    with measurements.locked():
        measurements.put("matvec", NUMBERS)
    assert measurements.get("matvec") == NUMBERS


def test_what_was_not_found_right_is_never_chosen() -> None:
    features = frozenset(FEATURES)
    first, second, *_ = candidates("matvec_q8_0", features)
    for numbers in ({}, {first.suffix: 1.0, second.suffix: 2.0}, {first.suffix: 1.0, second.suffix: None}):
        measured: dict[str, float | None] = dict(numbers)
        right = {"matvec_q8_0": [second.suffix]}
        selection = Selection(features, lambda name, found=measured: found, right)  # type: ignore[misc]
        assert selection.variant("matvec_q8_0", 96) is second
        assert selection.variant("matvec_q4_0", 96).suffix == first.suffix  # which was not checked


def test_only_long_rows_are_split_over_a_workgroup() -> None:
    """However fast that was for the matrix which was measured."""
    features = frozenset([*FEATURES, "card"])
    numbers: dict[str, float | None] = {
        variant.suffix: 1.0 if variant.split_from else 2.0 for variant in candidates("matvec_q4_k", features)
    }
    selection = Selection(features, lambda name: numbers)
    assert selection.variant("matvec_q4_k", 768, 4096).suffix == "_split_wide"
    assert selection.variant("matvec_q4_k", 768, 1024).suffix == "_wide"


def test_a_program_of_few_rows_has_no_tile_of_many() -> None:
    """However fast that was for as many rows as were measured."""
    features = frozenset(LANES)
    numbers: dict[str, float | None] = {
        variant.suffix: 1.0 if variant.rows_from else 2.0 for variant in candidates("tiled_q4_k", features)
    }
    for measured in (numbers, {}):
        selection = Selection(features, lambda name, found=measured: found)  # type: ignore[misc]
        assert selection.variant("tiled_q4_k", 768, program_rows=16).suffix == "_16x4"
        assert selection.variant("tiled_q4_k", 768, program_rows=8).suffix == "_4x8"
