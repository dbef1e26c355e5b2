"""Vulkan devices for the tests: the only one of each driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import manifest_of
from tests.drivers import FINDERS, driver_variables, find_validation_layer
from tests.vulkan.reused_cpu import ReusedCpu
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.options import FEATURES, RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import DeviceId
from tplaunch.worker.vulkan.device import VulkanDevice

# Devices for cases: the driver, and the features to do without, so that the plain kernels run on lavapipes
# too, as on SwiftShader. Those for quantized activations need integer dot products.
DEVICES = {
    "lavapipe": ("lavapipe", frozenset[str]()),
    "lavapipe-plain": ("lavapipe", frozenset(FEATURES) - {"integer_dot_product"}),
    "swiftshader": ("swiftshader", frozenset[str]()),
    "mesa": ("mesa", frozenset[str]()),
    "mesa-plain": ("mesa", frozenset(FEATURES) - {"integer_dot_product"}),
    **({"card": ("card", frozenset[str]())} if "card" in FINDERS else {}),
}

ON_VULKAN = pytest.mark.parametrize("device", DEVICES, indirect=True)  # of what processors do not have


def select_driver(patch: pytest.MonkeyPatch, name: str) -> None:
    """From now on the Vulkan loader sees this driver only; devices that are open already stay so."""
    for variable, value in driver_variables(manifest_of(FINDERS[name]())).items():
        patch.setenv(variable, value)


@pytest.fixture(scope="session", params=[*DEVICES, "cpu"])
def device(request: pytest.FixtureRequest) -> Iterator[ReusedDevice | ReusedCpu]:
    """A device for cases, opened once."""
    if request.param == "cpu":
        yield ReusedCpu()
        return
    driver, without = DEVICES[request.param]
    validate = request.config.getoption("--validate")
    with pytest.MonkeyPatch.context() as patch:
        select_driver(patch, driver)
        opened = ReusedDevice(RankOptions(validate=validate, without=tuple(sorted(without))))
    yield opened
    opened.close()


class Opener:
    """Opens devices of any driver, and closes them after the test."""

    def __init__(self, patch: pytest.MonkeyPatch, validate: bool) -> None:
        self._patch, self._validate = patch, validate
        self.opened: list[VulkanDevice] = []

    def __call__(
        self, driver: str, limits: Limits, timeout_seconds: float = 60, **options: Any
    ) -> VulkanDevice:
        select_driver(self._patch, driver)
        if options.get("validate"):
            manifest_of(find_validation_layer())
        options.setdefault("validate", self._validate)
        device = VulkanDevice(DeviceId(0), RankOptions(timeout_seconds=timeout_seconds, **options), limits)
        self.opened.append(device)
        return device


@pytest.fixture
def open_device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Opener]:
    opener = Opener(monkeypatch, request.config.getoption("--validate"))
    yield opener
    for device in opener.opened:
        device.close()
