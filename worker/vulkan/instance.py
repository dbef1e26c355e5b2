"""The connection to the Vulkan loader, on request with the Khronos validation layer in between."""

from __future__ import annotations

import logging
from typing import Any

from tplaunch.worker.device import DeviceError, NotInstalledError
from tplaunch.worker.vulkan.api import (
    API_VERSION,
    Handle,
    check,
    enumerate_all,
    ffi,
    lib,
    require_loader,
    result_name,
    strings,
    struct,
    text,
    vk,
)

VALIDATION_LAYER = "VK_LAYER_KHRONOS_validation"
DEBUG_EXTENSION = "VK_EXT_debug_utils"

logger = logging.getLogger(__name__)


class Instance:
    """A VkInstance. With `validate`, the layer's objections are logged, and raised by check_validation."""

    def __init__(self, validate: bool = False) -> None:
        require_loader()
        if validate:
            _require_validation_layer()
        self.validation_errors: list[str] = []
        layers, extensions = ([VALIDATION_LAYER], [DEBUG_EXTENSION]) if validate else ([], [])
        application = struct("VkApplicationInfo", apiVersion=API_VERSION)
        info = struct(
            "VkInstanceCreateInfo",
            pApplicationInfo=application,
            enabledLayerCount=len(layers),
            ppEnabledLayerNames=strings(layers),
            enabledExtensionCount=len(extensions),
            ppEnabledExtensionNames=strings(extensions),
        )
        instance = ffi.new("VkInstance *")
        status = lib.vkCreateInstance(info, ffi.NULL, instance)
        if status == vk.VK_ERROR_INCOMPATIBLE_DRIVER:  # what the loader says where it finds none
            raise NotInstalledError(
                "driver",
                f"no Vulkan driver is installed: vkCreateInstance failed with {result_name(status)}",
            )
        check(status, "vkCreateInstance")
        self.handle = instance[0]
        self._messenger = self._create_messenger() if validate else None

    def physical_devices(self) -> list[Handle]:
        """Lists the devices in the loader's order, which numbers them."""
        return enumerate_all("vkEnumeratePhysicalDevices", "VkPhysicalDevice", self.handle)

    def check_validation(self) -> None:
        """Raises DeviceError if the validation layer has objected to anything."""
        if self.validation_errors:
            raise DeviceError(f"{len(self.validation_errors)} validation errors: {self.validation_errors[0]}")

    def close(self) -> None:
        """Idempotent."""
        if self.handle is None:
            return
        if self._messenger is not None:
            destroy = self.function("vkDestroyDebugUtilsMessengerEXT")
            destroy(self.handle, self._messenger, ffi.NULL)
        lib.vkDestroyInstance(self.handle, ffi.NULL)
        self.handle = None

    def function(self, name: str) -> Handle:
        """A function of an extension."""
        return ffi.cast(f"PFN_{name}", lib.vkGetInstanceProcAddr(self.handle, name.encode()))

    def _create_messenger(self) -> Handle:
        # Kept as long as the instance lives: the layer calls it from whatever thread makes a mistake.
        self._callback = ffi.callback("PFN_vkDebugUtilsMessengerCallbackEXT", self._on_message)
        info = struct(
            "VkDebugUtilsMessengerCreateInfoEXT",
            messageSeverity=vk.VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            messageType=vk.VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            pfnUserCallback=self._callback,
        )
        messenger = ffi.new("VkDebugUtilsMessengerEXT *")
        function = self.function("vkCreateDebugUtilsMessengerEXT")
        function(self.handle, info, ffi.NULL, messenger)
        return messenger[0]

    def _on_message(self, severity: int, kinds: int, data: Any, user: Any) -> int:
        message = " ".join(text(data.pMessage).split())  # newer layers write several lines
        self.validation_errors.append(message)
        logger.error("Vulkan validation: %s", message)
        return 0


def _require_validation_layer() -> None:
    layers = enumerate_all("vkEnumerateInstanceLayerProperties", "VkLayerProperties")
    if VALIDATION_LAYER not in {text(layer.layerName) for layer in layers}:
        raise DeviceError(f"{VALIDATION_LAYER} is not here; install the package vulkan-validationlayers")
