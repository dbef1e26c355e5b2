"""The only file that imports `vulkan`: its raw functions, structs and constants, and one check for results.

The package's own wrappers are not used: they cost microseconds a call, raise VK_TIMEOUT as an error, and
some are wrong (VK_WHOLE_SIZE, vkGetBufferDeviceAddress).
"""

from __future__ import annotations

import itertools
import re
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from tplaunch.worker.device import DeviceError, NotInstalledError

Handle: TypeAlias = Any  # a Vulkan object, a struct or a function of the foreign interface

ffi: Any = None
lib: Any = None
vk: Any = None
_load_error = ""
try:
    import vulkan._vulkan

    vk = vulkan._vulkan
    ffi, lib = vk.ffi, vk.lib
except OSError as error:  # the package is there, the loader's library is not
    _load_error = str(error)

API_VERSION = 1 << 22 | 3 << 12  # 1.3, the newest that is made use of
WHOLE_SIZE = 2**64 - 1


def require_loader() -> None:
    """Raises NotInstalledError where the system has no Vulkan loader."""
    if _load_error:
        raise NotInstalledError(
            "loader",
            "the Vulkan loader is not installed; install the package libvulkan1 (Debian, Ubuntu), "
            f"vulkan-loader (Fedora) or vulkan-icd-loader (Arch): {_load_error}",
        )


def result_name(status: int) -> str:
    """VK_ERROR_DEVICE_LOST and the like."""
    return str(ffi.typeof("VkResult").elements.get(status, status))


def check(status: int, call: str) -> None:
    """Raises DeviceError unless the call succeeded."""
    if status != vk.VK_SUCCESS:
        raise DeviceError(f"{call} failed with {result_name(status)}")


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a VkResult, and checks that."""
    check(getattr(lib, name)(*arguments), name)


def create(name: str, handle_type: str, parent: Handle, info: Handle) -> Handle:
    """Calls vkCreate... or vkAllocate... with an info struct and returns the new object."""
    created = ffi.new(f"{handle_type} *")
    call(name, parent, info, ffi.NULL, created)
    return created[0]


_pointed_to: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()


def struct(name: str, **fields: Any) -> Handle:
    """A struct with its sType set; keeps alive what its fields point to, which cffi alone does not."""
    value = ffi.new(f"{name} *", fields)
    if any(field == "sType" for field, _ in ffi.typeof(name).fields):
        value.sType = getattr(vk, _structure_type(name))
    _pointed_to[value] = tuple(fields.values())
    return value


def _structure_type(name: str) -> str:
    """VkPhysicalDeviceVulkan12Features -> VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]+$|[A-Z][a-z]+|\d+", name.removeprefix("Vk"))
    spelled = ["_".join(word) if word.isdigit() else word.upper() for word in words]
    return "VK_STRUCTURE_TYPE_" + "_".join(spelled)


def chained(structs: list[Handle]) -> Handle:
    """Links structs by their pNext and returns the first, or NULL for none. The caller keeps them alive."""
    for one, following in itertools.pairwise(structs):
        one.pNext = following
    return structs[0] if structs else ffi.NULL


def array(item_type: str, items: list[Any]) -> Handle:
    """A C array; keeps its items alive."""
    value = ffi.new(f"{item_type}[]", items)
    _pointed_to[value] = tuple(items)
    return value


def strings(texts: list[str]) -> Handle:
    """A C array of C strings."""
    return array("char *", [ffi.new("char[]", text.encode()) for text in texts])


def text(characters: Handle) -> str:
    """A C string as Python's."""
    return str(ffi.string(characters).decode(errors="replace"))


def extensions_of(physical: Handle) -> set[str]:
    """The names of a device's extensions."""
    listed = enumerate_all(
        "vkEnumerateDeviceExtensionProperties", "VkExtensionProperties", physical, ffi.NULL
    )
    return {text(extension.extensionName) for extension in listed}


def enumerate_all(name: str, item_type: str, *arguments: Any) -> list[Handle]:
    """Vulkan's two calls for a list: how many, and then which."""
    function, count = getattr(lib, name), ffi.new("uint32_t *")
    returns_result = ffi.typeof(function).result.kind != "void"
    items = ffi.NULL
    for _ in range(2):
        status = function(*arguments, count, items)
        if returns_result:
            check(status, name)
        if items == ffi.NULL:
            items = ffi.new(f"{item_type}[]", count[0])
    return [ffi.new(f"{item_type} *", items[i])[0] for i in range(count[0])]  # copies own their memory
