"""Tells why a device was lost, as far as its driver says (VK_EXT_device_fault)."""

from __future__ import annotations

from tplaunch.worker.vulkan.api import Handle, extensions_of, ffi, lib, result_name, struct, text, vk

EXTENSION = "VK_EXT_device_fault"
MAX_TOLD = 3  # of the faults that a driver lists
HELP = (
    "its driver gave up on it or reset it, which the kernel's log may explain; fewer rows at once take less"
    " long (--prefill-chunk), and `tplaunch check` tries its kernels"
)


def tells_faults(physical: Handle) -> bool:
    """Tells whether a device can say why it was lost."""
    if EXTENSION not in extensions_of(physical):
        return False
    feature = struct("VkPhysicalDeviceFaultFeaturesEXT")
    lib.vkGetPhysicalDeviceFeatures2(physical, struct("VkPhysicalDeviceFeatures2", pNext=feature))
    return bool(feature.deviceFault)


def enabled_fault() -> Handle:
    """Returns the feature as a device is made with it."""
    return struct("VkPhysicalDeviceFaultFeaturesEXT", deviceFault=1)


def lost_device(name: str, call: str, device: Handle, query: Handle | None) -> str:
    """Returns a sentence on a device that a call found lost.

    query: vkGetDeviceFaultInfoEXT, where the device has it.
    """
    report = "" if query is None else _report(device, query)
    said = f"; the driver reports: {report}" if report else ""
    return f"{name} was lost ({call}): {HELP}{said}"


def _report(device: Handle, query: Handle) -> str:
    counts = struct("VkDeviceFaultCountsEXT")
    if query(device, counts, ffi.NULL) != vk.VK_SUCCESS:
        return ""
    counts.vendorBinarySize = 0
    addresses = ffi.new("VkDeviceFaultAddressInfoEXT[]", max(1, counts.addressInfoCount))
    vendors = ffi.new("VkDeviceFaultVendorInfoEXT[]", max(1, counts.vendorInfoCount))
    info = struct("VkDeviceFaultInfoEXT", pAddressInfos=addresses, pVendorInfos=vendors)
    status = query(device, counts, info)
    if status not in (vk.VK_SUCCESS, vk.VK_INCOMPLETE):
        return f"nothing ({result_name(status)})"
    return ", ".join(described(info, addresses, counts.addressInfoCount, vendors, counts.vendorInfoCount))


def described(
    info: Handle, addresses: Handle, num_addresses: int, vendors: Handle, num_vendors: int
) -> list[str]:
    """Lists what a fault report says, the first of each kind."""
    said = [text(info.description)]
    for i in range(min(num_addresses, MAX_TOLD)):
        said.append(f"{_kind(addresses[i].addressType)} at {addresses[i].reportedAddress:#x}")
    for i in range(min(num_vendors, MAX_TOLD)):
        code = f"{vendors[i].vendorFaultCode:#x}"
        said.append(f"{text(vendors[i].description)} (fault {code})")
    return [part for part in said if part]


def _kind(address_type: int) -> str:
    """The kind of an address, such as "read invalid"."""
    name = str(ffi.typeof("VkDeviceFaultAddressTypeEXT").elements.get(int(address_type), "unknown"))
    return name.removeprefix("VK_DEVICE_FAULT_ADDRESS_TYPE_").removesuffix("_EXT").lower().replace("_", " ")
