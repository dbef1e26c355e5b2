"""The memory types by which the host's memory is imported, and what happens where a driver takes none."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan import imports
from tplaunch.worker.vulkan.api import vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory_types import MemoryType, export_order, import_order

LOCAL = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
VISIBLE = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
COHERENT = VISIBLE | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
CACHED = VISIBLE | vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
TYPES = [MemoryType(flags, 0, 1 << 30) for flags in (LOCAL, COHERENT, CACHED, COHERENT | CACHED, COHERENT)]


@pytest.mark.parametrize(
    ("allowed", "order"),
    [(0b11111, [3, 1, 4, 2, 0]), (0b00111, [1, 2, 0]), (0b10010, [1, 4]), (0b00001, [0]), (0, [])],
)
def test_coherent_and_cached_memory_goes_first(allowed: int, order: list[int]) -> None:
    assert import_order(TYPES, allowed) == order


def test_memory_that_hosts_read_soonest_is_exported() -> None:
    """The device's own is not, where it has other memory: hosts would read it over the bus."""
    assert export_order(TYPES, 0b11111) == [3, 1, 4] and export_order(TYPES, 0b00101) == []
    types = [MemoryType(kind.flags | extra, 0, 1 << 30) for kind in TYPES for extra in (0, LOCAL)]
    assert export_order(types, 0b1111111111) == [6, 2, 8] and export_order(types, 0b0010001000) == []
    integrated = [MemoryType(kind.flags | LOCAL, 0, 1 << 30) for kind in TYPES]
    assert export_order(integrated, 0b11111) == [3, 1, 4]


def test_every_type_is_tried_and_the_first_refusal_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def allocate(context: Any, nbytes: int, type_index: int, source: Any) -> Any:
        tried.append(type_index)
        if type_index != taken:
            raise DeviceError(f"type {type_index} is refused")
        return "memory"

    monkeypatch.setattr(imports, "allocate_memory", allocate)
    context = cast(Context, None)
    taken = 1
    assert imports.allocated(context, 4096, [3, 1, 4], None) == "memory" and tried == [3, 1]
    taken = -1
    with pytest.raises(DeviceError, match="type 3 is refused"):
        imports.allocated(context, 4096, [3, 1, 4], None)
