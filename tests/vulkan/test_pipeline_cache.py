"""Pipelines are kept for later starts, and a driver is handed nothing but what it compiled itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import manifest_of
from tests.drivers import REPOSITORY, driver_variables, find_radv
from tests.vulkan.cases import limits_for
from tests.vulkan.conftest import Opener
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.pipeline_cache import (
    DIGEST_BYTES,
    MAX_BYTES,
    PipelineCache,
    expected_header,
    file_fault,
)
from tplaunch.worker.vulkan.pipelines import Pipelines

HEADER = bytes(range(32))


def compile_some(folder: Path) -> int:
    """Compiles for a card that is not there; returns how many kept bytes the driver began with."""
    env = {**os.environ, **driver_variables(manifest_of(find_radv())), "RADV_FORCE_FAMILY": "navi21"}
    command = [sys.executable, "-m", "tests.vulkan.keep_pipelines", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_second_start_gets_what_the_first_has_compiled(tmp_path: Path) -> None:
    assert compile_some(tmp_path) == 0
    (kept,) = (tmp_path / "pipelines").iterdir()
    size = kept.stat().st_size
    assert compile_some(tmp_path) == size - DIGEST_BYTES > len(HEADER)
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert compile_some(tmp_path) == 0
    assert compile_some(tmp_path) == size - DIGEST_BYTES


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (hashlib.sha256(HEADER + b"abc").digest() + HEADER + b"abc", ""),
        (hashlib.sha256(HEADER + b"abc").digest() + HEADER + b"abd", "it is damaged"),
        (hashlib.sha256(b"?" + HEADER).digest() + b"?" + HEADER, "it is another driver's"),
        (HEADER, "it has 32 bytes"),
        (b"", "it has 0 bytes"),
        (b"\0" * (MAX_BYTES + 1), f"it has {MAX_BYTES + 1} bytes"),
    ],
)
def test_only_whole_files_of_this_driver_are_read(content: bytes, fault: str) -> None:
    assert file_fault(content, HEADER) == fault


def test_a_folder_that_can_not_be_written_costs_nothing(open_device: Opener, tmp_path: Path) -> None:
    (tmp_path / "pipelines").write_text("a file where the folder should be")
    device = open_device("lavapipe", limits_for())
    cache = PipelineCache(device._context, tmp_path)
    assert len(expected_header(device._context)) == len(HEADER)
    cache.save()
    cache.close()


def test_pipelines_made_by_threads_are_those_made_one_by_one(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    pipelines = Pipelines(open_device("lavapipe", limits_for())._context)
    names = ["activate", "sum_norm", "activate", "quantize_q8"]
    pipelines.make(names)
    made = {name: pipelines[name] for name in names}
    pipelines.make(names)
    assert made == {name: pipelines[name] for name in names} and len(set(made.values())) == 3
    assert pipelines.has(names) and not pipelines.has(["head_norm"])
    pipelines.close()


def test_a_kernel_that_is_refused_leaves_the_others(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compile_module, refused = Pipelines._compile, load_kernel("sum_norm")

    def refuse(pipelines: Pipelines, module: bytes) -> Any:
        if module == refused:
            raise DeviceError("vkCreateComputePipelines failed with VK_ERROR_UNKNOWN")
        return compile_module(pipelines, module)

    monkeypatch.setattr(Pipelines, "_compile", refuse)
    pipelines = Pipelines(open_device("lavapipe", limits_for())._context)
    pipelines.make(["activate", "sum_norm", "quantize_q8"])
    assert pipelines.has(["activate", "quantize_q8"]) and not pipelines.has(["sum_norm"])
    assert "sum_norm is not compiled: vkCreateComputePipelines failed with VK_ERROR_UNKNOWN" in caplog.text
    with pytest.raises(DeviceError, match="VK_ERROR_UNKNOWN"):
        pipelines["sum_norm"]
    pipelines.make(["sum_slice"], seconds=-1.0)
    assert not pipelines.has(["sum_slice"])  # there was no time to begin it
    pipelines.close()
