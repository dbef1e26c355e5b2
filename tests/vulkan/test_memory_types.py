"""Which memory a buffer goes to, by the types that drivers of cards list."""

from __future__ import annotations

import pytest

from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.vulkan.memory import eviction_note
from tplaunch.worker.vulkan.memory_types import MemoryType, memory_type_order

pytestmark = pytest.mark.vulkan

GIB, MIB = 1 << 30, 1 << 20
LOCAL, VISIBLE, COHERENT, CACHED = 1, 2, 4, 8
WINDOW, MAPPABLE = LOCAL | VISIBLE | COHERENT, VISIBLE | COHERENT
# As drivers list them: a card without resizable BAR, one with it, RADV's, an integrated one, and lavapipe.
NVIDIA_NO_BAR = [(0, 1, 32 * GIB), (LOCAL, 0, 24 * GIB), (MAPPABLE, 1, 32 * GIB),
                 (MAPPABLE | CACHED, 1, 32 * GIB), (WINDOW, 2, 246 * MIB)]  # fmt: skip
NVIDIA_BAR = [*NVIDIA_NO_BAR[:4], (WINDOW, 0, 24 * GIB)]
RADV_NO_BAR = [(LOCAL, 0, 16 * GIB - 256 * MIB), (MAPPABLE, 1, 16 * GIB), (WINDOW, 2, 256 * MIB),
               (MAPPABLE | CACHED, 1, 16 * GIB)]  # fmt: skip
INTEGRATED = [(WINDOW, 0, 12 * GIB), (WINDOW | CACHED, 0, 12 * GIB)]
LAVAPIPE = [(WINDOW | CACHED, 0, 24 * GIB)]
NO_OWN = [(MAPPABLE, 0, 8 * GIB)]


@pytest.mark.parametrize(
    ("listed", "weights", "upload", "readback"),
    [
        (NVIDIA_NO_BAR, [(1, False), (4, True)], [4, 2, 3], [3, 2, 4]),
        (NVIDIA_BAR, [(4, True), (1, False)], [4, 2, 3], [3, 2, 4]),
        (RADV_NO_BAR, [(0, False), (2, True)], [2, 1, 3], [3, 1, 2]),
        (INTEGRATED, [(0, True), (1, True)], [0, 1], [1, 0]),
        (LAVAPIPE, [(0, True)], [0], [0]),
        (NO_OWN, [(0, True)], [0], [0]),
    ],
)
def test_types_are_tried_in_this_order(
    listed: list[tuple[int, int, int]],
    weights: list[tuple[int, bool]],
    upload: list[int],
    readback: list[int],
) -> None:
    types = {index: MemoryType(*one) for index, one in enumerate(listed)}
    for placement in (Placement.WEIGHTS, Placement.DEVICE):
        assert memory_type_order(types, placement) == weights
        unmapped = [(index, False) for index, _ in weights]
        assert memory_type_order(types, placement, unmapped=True) == unmapped
    assert memory_type_order(types, Placement.UPLOAD) == [(index, True) for index in upload]
    assert memory_type_order(types, Placement.READBACK) == [(index, True) for index in readback]


def test_memory_that_no_host_can_map_holds_weights_alone() -> None:
    types = {3: MemoryType(LOCAL, 0, GIB)}
    assert memory_type_order(types, Placement.WEIGHTS) == [(3, False)]
    assert memory_type_order(types, Placement.UPLOAD) == []


def test_a_driver_that_grants_less_than_lies_there_is_told_of() -> None:
    assert eviction_note("a card", 8 * GIB, 8 * GIB) == ""
    note = eviction_note("a card", 9 * GIB, 8 * GIB)
    assert note.startswith("a card holds 9.0 GiB, but its driver now grants 8.0 GiB of its own memory")
