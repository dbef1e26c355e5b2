"""Listing devices, opening them, and their memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tplaunch.worker.vulkan.api
from tests.drivers import CPU_FINDERS, FINDERS
from tests.vulkan.cases import limits_for, page_aligned, write_bytes
from tests.vulkan.conftest import Opener, select_driver
from tplaunch.coordinator.options import RankOptions
from tplaunch.shaders.load import kernel_names
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import COPY, IMPORT, DeviceError, DeviceId
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.heaps import largest_local_heap
from tplaunch.worker.vulkan.instance import Instance
from tplaunch.worker.vulkan.listing import list_devices
from tplaunch.worker.vulkan.memory import Memory, buffer_info
from tplaunch.worker.vulkan.partials import import_by
from tplaunch.worker.vulkan.staging import STAGING_BYTES

LIMITS = limits_for()


@pytest.mark.parametrize("driver", CPU_FINDERS)
def test_devices_are_described(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    select_driver(monkeypatch, driver)
    (device,) = list_devices()
    assert device.index == 0
    assert {"lavapipe": "llvmpipe", "swiftshader": "SwiftShader", "mesa": "llvmpipe"}[driver] in device.name
    assert driver != "mesa" or " Mesa 25." in device.driver  # not the system's library of the same name
    assert device.type == "cpu"
    assert device.unusable is None
    assert device.driver and device.api_version >= (1, 2)
    assert len(bytes.fromhex(device.uuid)) == 16
    assert device.driver_id == {"lavapipe": 13, "mesa": 13, "swiftshader": 10}[driver]  # VkDriverId
    assert device.pci_address == "" and device.vendor_id > 0  # no card
    assert bool(device.matrices) <= device.cooperative_matrix
    assert device.integer_dot_accelerated <= device.integer_dot_product
    assert 0 < device.min_subgroup_size <= device.subgroup_size <= device.max_subgroup_size
    assert device.max_allocation >= 1 << 30 and device.memory_bytes > 1 << 30
    assert device.available_bytes == device.memory_bytes  # neither says what is free


def test_a_driver_that_leaves_the_budget_at_zero_has_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    select_driver(monkeypatch, "lavapipe")
    instance = Instance()
    (handle,) = instance.physical_devices()
    size, available = largest_local_heap(handle, has_budget=True)
    assert (size, available) == largest_local_heap(handle, has_budget=False)
    assert size == available > 1 << 30
    instance.close()


def test_no_driver_means_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent.json")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent.json")
    with pytest.raises(DeviceError, match="vkCreateInstance failed with VK_ERROR_INCOMPATIBLE_DRIVER"):
        list_devices()


def test_no_loader_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tplaunch.worker.vulkan.api, "_load_error", "Cannot find Vulkan SDK version")
    with pytest.raises(DeviceError, match="install the package libvulkan1"):
        list_devices()


def test_another_device_than_chosen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    select_driver(monkeypatch, "lavapipe")
    with pytest.raises(DeviceError, match="00ff was chosen"):
        Context(0, uuid="00ff")
    with pytest.raises(DeviceError, match="there is no Vulkan device 3; there are 1"):
        Context(3)
    Context(0, uuid=list_devices()[0].uuid).close()


def test_a_device_can_be_opened_as_if_it_lacked_features(monkeypatch: pytest.MonkeyPatch) -> None:
    select_driver(monkeypatch, "lavapipe")
    context = Context(0, without=frozenset({"int64"}))
    context.close()
    assert context.info.features == list_devices()[0].features - {"int64"}
    assert "float16" in context.info.features


def test_validation_errors_end_the_device(open_device: Opener) -> None:
    """A buffer of no bytes is what the layer is made to object to; lavapipe would not."""
    device = open_device("lavapipe", LIMITS, validate=True)
    call, context = tplaunch.worker.vulkan.api.create, device._context
    buffer = call("vkCreateBuffer", "VkBuffer", context.device, buffer_info(0))
    tplaunch.worker.vulkan.api.lib.vkDestroyBuffer(
        context.device, buffer, tplaunch.worker.vulkan.api.ffi.NULL
    )
    with pytest.raises(DeviceError, match=r"1 validation errors.*VkBufferCreateInfo-size"):
        device.close()


def test_every_kernel_passes_validation(open_device: Opener) -> None:
    device = open_device("lavapipe", LIMITS, validate=True)
    for name in kernel_names():
        if name.startswith("matrices_") and device._context.matrices is None:
            continue  # not for this device, and older validators know no cooperative matrices
        if "norm_1024" in name:
            continue  # for wider subgroups: of so narrow ones there would be more than a workgroup may have
        assert device._pipelines[name]
    device.close()


@pytest.mark.parametrize("driver", FINDERS)
@pytest.mark.parametrize("staging", [False, True])
def test_buffers_begin_as_zeros_and_hold_what_is_written(
    open_device: Opener, driver: str, staging: bool
) -> None:
    """Also memory that the host can't see, here through a copy of it."""
    device = open_device(driver, LIMITS, staging=staging)
    nbytes = STAGING_BYTES + 1000
    device.create_buffers(
        {"weights": Buffer(nbytes), "read": Buffer(nbytes, Placement.READBACK), "empty": Buffer(0)}
    )
    assert not contents(device, "weights", nbytes).any()
    assert not device.view("read").any()
    assert device.view("empty").size == 0
    data = np.random.default_rng(0).integers(0, 256, nbytes - 8, np.uint8)
    write_bytes(device, "weights", 4, data)
    assert np.array_equal(contents(device, "weights", nbytes), np.pad(data, 4))


@pytest.mark.parametrize("staging", [False, True])
def test_several_threads_fill_a_buffer_at_once(open_device: Opener, staging: bool) -> None:
    device = open_device("lavapipe", LIMITS, staging=staging)
    part, num_parts = 1 << 20, 16
    nbytes = part * num_parts
    device.create_buffers({"weights": Buffer(nbytes), "read": Buffer(nbytes, Placement.READBACK)})
    data = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    together = threading.Barrier(4)
    num_blocks = len(device._memory._blocks)

    def fill(number: int) -> None:
        """Two places of the buffer, far from each other."""
        places = [(number * part, part // 2), (nbytes - (number + 1) * part + part // 2, part // 2)]

        def write(memory: list[np.typing.NDArray[np.uint8]]) -> None:
            together.wait(timeout=10)
            for target, (offset, length) in zip(memory, places, strict=True):
                target[:] = data[offset : offset + length]

        device.fill("weights", places, write)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(num_parts)))
    assert len(device._memory._blocks) == num_blocks + (4 if staging else 0)
    device.finish_loading()
    assert len(device._memory._blocks) == num_blocks
    assert np.array_equal(contents(device, "weights", nbytes), data)


def contents(device: VulkanDevice, name: str, nbytes: int) -> np.typing.NDArray[np.uint8]:
    """A DEVICE buffer's bytes, copied by the device."""
    source, target = device._memory[name], device._memory["read"]
    assert source.block is not None and target.block is not None and target.mapped is not None
    blocks = (source.block.buffer, target.block.buffer)
    api = tplaunch.worker.vulkan.api
    region = api.struct("VkBufferCopy", srcOffset=source.offset, dstOffset=target.offset, size=nbytes)
    device._context.run_once(lambda commands: api.lib.vkCmdCopyBuffer(commands, *blocks, 1, region))
    copied = target.mapped.copy()
    target.mapped[:] = 0
    return copied


def test_a_buffer_larger_than_an_allocation_is_refused(open_device: Opener) -> None:
    device = open_device("swiftshader", LIMITS)
    with pytest.raises(
        DeviceError, match=r"'big' has 2147483648 bytes; SwiftShader.* at most 1073741824 at once"
    ):
        device.create_buffers({"big": Buffer(2 << 30)})


def test_buffers_are_spread_over_allocations(open_device: Opener) -> None:
    device = open_device("lavapipe", LIMITS)
    small = dataclasses.replace(device.info, max_allocation=1000)
    device._context.info = small
    memory = Memory(device._context, unmapped=False)
    memory.create({str(i): Buffer(300 + i) for i in range(9)})
    blocks = {id(memory[str(i)].block) for i in range(9)}
    assert len(blocks) == 9  # 512 bytes each, aligned
    memory.close()
    memory.create({str(i): Buffer(200 + i) for i in range(9)})
    assert len({id(memory[str(i)].block) for i in range(9)}) == 3
    memory.close()


def test_a_full_device_names_the_numbers(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("lavapipe", LIMITS)
    device.create_buffers({"first": Buffer(4096)})

    def refuse(*arguments: object) -> None:
        raise DeviceError("vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY")

    monkeypatch.setattr("tplaunch.worker.vulkan.memory.allocate_memory", refuse)
    with pytest.raises(
        DeviceError, match=r"no room for 8192 more bytes beside the 4096 bytes.*OUT_OF_DEVICE"
    ):
        device.create_buffers({"second": Buffer(8192)})


def test_what_has_no_room_in_one_memory_goes_to_the_next(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("lavapipe", LIMITS)
    (only,) = device._context.memory_types()
    listed = [only._replace(heap_bytes=only.heap_bytes + 1), only]
    tried = []

    def allocate(context: Context, nbytes: int, index: int) -> str:
        tried.append(index)
        if index == 0:
            raise DeviceError("vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY")
        return "memory"

    monkeypatch.setattr(device._context, "memory_types", lambda: listed)
    monkeypatch.setattr("tplaunch.worker.vulkan.memory.allocate_memory", allocate)
    requirements = tplaunch.worker.vulkan.api.struct("VkMemoryRequirements", size=4096, memoryTypeBits=3)
    assert device._memory._allocate_from(requirements, Placement.DEVICE) == ("memory", True)
    assert tried == [0, 1]


def test_a_card_is_zeroed_by_the_card(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its memory is mapped, and the host sees the zeros."""
    device = open_device("lavapipe", LIMITS)
    device._context.info = dataclasses.replace(device.info, type="discrete")
    sizes = []

    def run_once(record: Callable[[Any], None]) -> None:
        sizes.append(1)
        Context.run_once(device._context, record)

    monkeypatch.setattr(device._context, "run_once", run_once)
    device.create_buffers({"read": Buffer(4096, placement=Placement.READBACK)})
    assert sizes == [1] and not device.view("read").any()


@pytest.mark.parametrize("driver", FINDERS)
def test_an_arena_within_other_memory_is_imported_where_the_driver_says_it_can(
    open_device: Opener, driver: str
) -> None:
    """Its pages hold other things before and after it, which stay as they are."""
    device = open_device(driver, LIMITS)
    memory = page_aligned((3 * 4096,))
    memory[:] = 7
    arena = memory[4096 + 512 :][: 2 * 2 * 1024].reshape(2, 2, 1024)
    device.attach_partials(arena, 1, 2)
    assert device.sharing == IMPORT or not device.info.host_memory_import
    assert driver not in CPU_FINDERS or device.info.host_memory_import == (driver != "swiftshader")
    assert (memory == 7).all()


def test_an_arena_that_can_not_be_imported_is_copied(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise DeviceError("refused")

    monkeypatch.setattr("tplaunch.worker.vulkan.imports.import_host_memory", refuse)
    device = open_device("lavapipe", LIMITS)
    device.attach_partials(page_aligned((2, 1, 4096)), 0, 1)
    assert device.sharing == COPY


def test_an_arena_larger_than_an_import_is_refused(open_device: Opener) -> None:
    device = open_device("lavapipe", LIMITS)
    device._context.info = dataclasses.replace(device.info, max_allocation=4096)
    with pytest.raises(DeviceError, match="the arena has 8192 bytes, the largest import 4096"):
        import_by(device._context, IMPORT, page_aligned((2, 1, 4096)), None)


def test_options_name_a_device() -> None:
    with pytest.raises(AssertionError, match="a Vulkan device has an index"):
        VulkanDevice(DeviceId(None), RankOptions(), LIMITS)
