"""Compute pipelines by kernel name, made when they are first used, or several at once by threads."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tplaunch.shaders.analysis import limits
from tplaunch.shaders.execution_modes import with_modes
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.device import COMPILING, DeviceError
from tplaunch.worker.vulkan.api import Handle, array, call, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipeline_cache import PipelineCache

MAX_PUSH_BYTES = 128  # of push constants, what every device has

log = logging.getLogger("worker")


class Pipelines:
    """Compiled kernels by name. All share one layout: push constants, and no descriptor sets."""

    def __init__(self, context: Context, folder: Path | None = None) -> None:
        """folder: for what the driver compiles, to be found by later starts."""
        self._device, self._sizes, self._matrices = context.device, context.info.sizes, context.matrices
        self._name, self._modes = context.info.name, context.modes
        self._begun: dict[str, None] = {}  # kernels that threads compile now
        self._lock = threading.Lock()  # of these
        self._cache = PipelineCache(context, folder)
        self._pipelines: dict[str, Handle] = {}
        constants = struct(
            "VkPushConstantRange", stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT, offset=0, size=MAX_PUSH_BYTES
        )
        info = struct("VkPipelineLayoutCreateInfo", pushConstantRangeCount=1, pPushConstantRanges=constants)
        self.layout = create("vkCreatePipelineLayout", "VkPipelineLayout", self._device, info)

    def __getitem__(self, name: str) -> Handle:
        if name not in self._pipelines:
            self._pipelines[name] = self._compile(load_kernel(name))
        return self._pipelines[name]

    def make(self, names: Iterable[str], seconds: float = math.inf) -> None:
        """Makes those of the pipelines that are missing, by as many threads as this process has cores.

        After so many seconds no other one is begun. One that the driver refuses is told of and left out: it
        is refused again where it is asked for.
        """
        missing = [name for name in dict.fromkeys(names) if name not in self._pipelines]
        if not missing:
            return
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(min(len(missing), len(os.sched_getaffinity(0)))) as pool:
            list(pool.map(lambda name: self._make_one(name, deadline), missing))

    def has(self, names: Iterable[str]) -> bool:
        """Tells if all of these are made."""
        return self._pipelines.keys() >= set(names)

    def _make_one(self, name: str, deadline: float) -> None:
        """Does so in a thread. The log says what the driver is at: should it crash, this is what is left."""
        if time.monotonic() > deadline:
            return
        with self._lock:
            self._begun[name] = None
            log.info("%s %s on %s", COMPILING, ", ".join(self._begun), self._name)
        try:
            self._pipelines[name] = self._compile(load_kernel(name))
        except DeviceError as error:
            log.warning("%s is not compiled: %s", name, error)
        finally:
            with self._lock:
                del self._begun[name]

    def keep(self) -> None:
        """Writes what the driver has compiled to the folder's file."""
        self._cache.save()

    def _compile(self, module: bytes) -> Handle:
        """Compiles in the device's modes for subgroups of its size, or of that which its matrices ask for."""
        cache, sizes, shape = self._cache.handle, self._sizes, self._matrices
        constants: Mapping[int, int] = {}
        if shape is not None and limits.has_matrices(module):
            sizes, constants = replace(sizes, required=sizes.required and shape.lanes), shape.constants
        count = limits.num_invocations(module)
        size = sizes.of_workgroup(count)
        flags = sizes.flags(count, size)
        module = with_modes(module, self._modes)
        return compute_pipeline(self._device, self.layout, module, cache, constants, size, flags)

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            lib.vkDestroyPipeline(self._device, pipeline, ffi.NULL)
        self._pipelines.clear()
        self._cache.close()
        lib.vkDestroyPipelineLayout(self._device, self.layout, ffi.NULL)


def compute_pipeline(
    device: Handle,
    layout: Handle,
    module: bytes,
    cache: Handle = None,
    constants: Mapping[int, int] | None = None,
    subgroup_size: int = 0,
    flags: int = 0,
) -> Handle:
    """Compiles a module's entry point `main` with these specialisation constants.

    Its subgroups have this size, or one that the driver likes where it is 0. The flags are the stage's.
    """
    code = ffi.new("uint32_t[]", len(module) // 4)
    ffi.memmove(code, module, len(module))
    shader_info = struct("VkShaderModuleCreateInfo", codeSize=len(module), pCode=code)
    shader = create("vkCreateShaderModule", "VkShaderModule", device, shader_info)
    required = struct(
        "VkPipelineShaderStageRequiredSubgroupSizeCreateInfo", requiredSubgroupSize=subgroup_size
    )
    stage = struct(
        "VkPipelineShaderStageCreateInfo",
        pNext=required if subgroup_size else ffi.NULL,
        flags=flags,
        stage=vk.VK_SHADER_STAGE_COMPUTE_BIT,
        module=shader,
        pName=ffi.new("char[]", b"main"),
        pSpecializationInfo=_specialised(constants) if constants else ffi.NULL,
    )
    info = struct("VkComputePipelineCreateInfo", stage=stage[0], layout=layout)
    pipeline = array("VkPipeline", [ffi.NULL])
    try:
        call("vkCreateComputePipelines", device, cache or ffi.NULL, 1, info, ffi.NULL, pipeline)
    finally:
        lib.vkDestroyShaderModule(device, shader, ffi.NULL)
    return pipeline[0]


def _specialised(constants: Mapping[int, int]) -> Handle:
    values = ffi.new("uint32_t[]", list(constants.values()))
    entries = ffi.new(
        "VkSpecializationMapEntry[]",
        [{"constantID": key, "offset": 4 * i, "size": 4} for i, key in enumerate(constants)],
    )
    return struct(
        "VkSpecializationInfo",
        mapEntryCount=len(constants),
        pMapEntries=entries,
        dataSize=4 * len(constants),
        pData=values,
    )
