"""Keeps what a driver has compiled, in a file of the user's cache folder for each device and driver.

Drivers have caches of their own, which containers lose. A file is a digest and what the driver gave; it goes
back to the driver only where it is whole and begins as this driver's do, since drivers trust what they read.
"""

from __future__ import annotations

import hashlib
import logging
import struct as packed
from contextlib import suppress
from pathlib import Path

from tplaunch.worker.folders import make_private, open_regular, replace_file
from tplaunch.worker.vulkan.api import call, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context

MAX_BYTES = 64 << 20  # of a file
DIGEST_BYTES = 32
# Of VkPipelineCacheHeaderVersionOne: its length, version 1, vendor, device, and the cache's UUID.
HEADER = packed.Struct("<IIII16s")

log = logging.getLogger("worker")


class PipelineCache:
    """A VkPipelineCache with what earlier starts compiled. Without a folder, or a file, it begins empty."""

    def __init__(self, context: Context, folder: Path | None) -> None:
        self._device = context.device
        self._header = expected_header(context)
        self._path = None
        if folder is not None:
            identity = hashlib.sha256(self._header + context.info.kind.encode()).hexdigest()
            self._path = folder / "pipelines" / f"{identity[:32]}.bin"
        found = self._read()
        self.num_bytes = len(found)  # that the driver was given
        self._known = hashlib.sha256(found).digest()
        data = ffi.from_buffer(found) if found else ffi.NULL
        info = struct("VkPipelineCacheCreateInfo", initialDataSize=len(found), pInitialData=data)
        self.handle = create("vkCreatePipelineCache", "VkPipelineCache", self._device, info)

    def _read(self) -> bytes:
        if self._path is None:
            return b""
        try:
            with open_regular(self._path) as file:
                content = file.read(MAX_BYTES + 1)
        except OSError:
            return b""
        fault = file_fault(content, self._header)
        if fault:
            log.info("%s is not used: %s", self._path, fault)
            return b""
        return content[DIGEST_BYTES:]

    def save(self) -> None:
        """Keeps what was compiled, where the file holds something else; it is replaced as a whole."""
        if self._path is None:
            return
        size = ffi.new("size_t *")
        call("vkGetPipelineCacheData", self._device, self.handle, size, ffi.NULL)
        if (
            not HEADER.size < size[0] <= MAX_BYTES - DIGEST_BYTES
        ):  # a driver that keeps nothing gives a header
            return
        data = ffi.new("uint8_t[]", size[0])
        call("vkGetPipelineCacheData", self._device, self.handle, size, data)
        content = bytes(ffi.buffer(data, size[0]))
        digest = hashlib.sha256(content).digest()
        if digest == self._known:
            return
        with suppress(OSError):  # the next start compiles again
            make_private(self._path.parent)
            replace_file(self._path, digest + content)
            self._known = digest

    def close(self) -> None:
        """The pipelines that were made with it stay."""
        lib.vkDestroyPipelineCache(self._device, self.handle, ffi.NULL)


def expected_header(context: Context) -> bytes:
    """The first bytes of what the driver of a device keeps."""
    properties = ffi.new("VkPhysicalDeviceProperties *")
    lib.vkGetPhysicalDeviceProperties(context.physical, properties)
    one = vk.VK_PIPELINE_CACHE_HEADER_VERSION_ONE
    uuid = bytes(properties.pipelineCacheUUID)
    return HEADER.pack(HEADER.size, one, properties.vendorID, properties.deviceID, uuid)


def file_fault(content: bytes, header: bytes) -> str:
    """Says why a file is not for the driver that begins with this header; nothing where it is."""
    if not DIGEST_BYTES + len(header) <= len(content) <= MAX_BYTES:
        return f"it has {len(content)} bytes"
    digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        return "it is damaged"
    return "" if data.startswith(header) else "it is another driver's"
