"""Kernels are compiled for subgroups of one size, all of whose lanes run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from tests.drivers import FINDERS
from tests.vulkan.conftest import select_driver
from tplaunch.worker.vulkan import api
from tplaunch.worker.vulkan.api import ffi
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.subgroups import ALL_LANES

LANES = {"lavapipe": 8, "mesa": 8, "swiftshader": 4}


@pytest.fixture(params=FINDERS)
def context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    select_driver(monkeypatch, request.param)
    opened = Context(0, validate=request.config.getoption("--validate"))
    assert opened.info.sizes.widest == LANES.get(request.param, opened.info.subgroup_size)
    yield opened
    opened.instance.check_validation()
    opened.close()


def test_every_kernel_asks_for_the_device_s_size(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def call(name: str, *arguments: Any) -> None:
        stage = arguments[3].stage
        assert stage.pNext != ffi.NULL, "it asks for no size"
        wanted = ffi.cast("VkPipelineShaderStageRequiredSubgroupSizeCreateInfo *", stage.pNext)
        asked.append((wanted.requiredSubgroupSize, stage.flags))
        api.call(name, *arguments)

    monkeypatch.setattr("tplaunch.worker.vulkan.pipelines.call", call)
    made = Pipelines(context)
    for kernel in ("activate", "attention_f32_1", "head_norm"):
        assert made[kernel]
    assert asked == [(context.info.sizes.widest, ALL_LANES)] * 3
    made.close()


def test_a_driver_that_chooses_is_asked_for_nothing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As drivers of Vulkan 1.2 are without the extension."""
    info = dataclasses.replace(context.info, required_subgroup_size=0, full_subgroups=False)
    monkeypatch.setattr(context, "info", info)

    def call(name: str, *arguments: Any) -> None:
        assert arguments[3].stage.pNext == ffi.NULL and arguments[3].stage.flags == 0
        api.call(name, *arguments)

    monkeypatch.setattr("tplaunch.worker.vulkan.pipelines.call", call)
    made = Pipelines(context)
    assert made["activate"]
    made.close()
