"""Compute pipelines by kernel name, made when they are first used."""

from __future__ import annotations

from tplaunch.shaders.load import load_kernel
from tplaunch.worker.vulkan.api import Handle, array, call, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context

MAX_PUSH_BYTES = 128  # of push constants, what every device has


class Pipelines:
    """Compiled kernels by name. All share one layout: push constants, and no descriptor sets."""

    def __init__(self, context: Context) -> None:
        self._device = context.device
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

    def _compile(self, module: bytes) -> Handle:
        code = ffi.new("uint32_t[]", len(module) // 4)
        ffi.memmove(code, module, len(module))
        info = struct("VkShaderModuleCreateInfo", codeSize=len(module), pCode=code)
        shader = create("vkCreateShaderModule", "VkShaderModule", self._device, info)
        stage = struct(
            "VkPipelineShaderStageCreateInfo",
            stage=vk.VK_SHADER_STAGE_COMPUTE_BIT,
            module=shader,
            pName=ffi.new("char[]", b"main"),
        )
        pipeline_info = struct("VkComputePipelineCreateInfo", stage=stage[0], layout=self.layout)
        pipeline = array("VkPipeline", [ffi.NULL])
        try:
            call("vkCreateComputePipelines", self._device, ffi.NULL, 1, pipeline_info, ffi.NULL, pipeline)
        finally:
            lib.vkDestroyShaderModule(self._device, shader, ffi.NULL)
        return pipeline[0]

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            lib.vkDestroyPipeline(self._device, pipeline, ffi.NULL)
        self._pipelines.clear()
        lib.vkDestroyPipelineLayout(self._device, self.layout, ffi.NULL)
