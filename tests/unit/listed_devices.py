"""Made-up devices, as a driver would list them."""

from typing import Any


def device(index: int, name: str, **changes: Any) -> dict[str, Any]:
    """A discrete card of its own, unless `changes` say otherwise."""
    plain = {
        "type": "discrete", "uuid": f"{index + 1:032x}", "driver_id": 3, "driver_version": 1,
        "vendor_id": 0x1002, "device_id": 0x73FF, "pci_address": f"0000:{index + 1:02x}:00.0",
        "memory_bytes": 1 << 30, "available_bytes": 1 << 29, "max_allocation": 1 << 28, "unusable": "",
        "matrices": [16, 16, 16], "integer_dot_product": True, "integer_dot_accelerated": True,
        "kind": f"{name}, its driver 1.0",
        "features": [],
        "driver": "its driver 1.0", "external_host_memory": index % 2 == 1,
    }  # fmt: skip
    return {"index": index, "name": name, **plain, **changes}


def numbered(*devices: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Gives each device its place in the list as its index."""
    return tuple({**each, "index": index} for index, each in enumerate(devices))


CPU = {"type": "cpu", "pci_address": "", "device_id": 0}
OLD_MESA, NEW_MESA = "llvmpipe Mesa 9.3.6 (LLVM 15.0.6)", "llvmpipe Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)"
LAVAPIPE = device(0, "llvmpipe", **CPU, driver_id=13, vendor_id=0x10005, uuid="6d" * 16, driver=OLD_MESA)
NEWER_LAVAPIPE = {**LAVAPIPE, "driver": NEW_MESA, "uuid": "7d" * 16}  # its driver_version is 1, too
SWIFTSHADER = device(0, "SwiftShader", **CPU, driver_id=10, vendor_id=0x1AE0, uuid="53" * 16)
INTEGRATED = device(
    0, "Intel Iris Xe", type="integrated", driver_id=6, vendor_id=0x8086, pci_address="0000:00:02.0"
)
GEFORCE = device(
    0, "NVIDIA GeForce RTX 3060", driver_id=4, vendor_id=0x10DE, device_id=0x2503, uuid="a1" * 16,
    pci_address="0000:07:00.0",
)  # fmt: skip
NVK = {**GEFORCE, "name": "NVIDIA GeForce RTX 3060 (NVK GA106)", "driver_id": 24, "uuid": "b2" * 16}
SECOND_GEFORCE = {**GEFORCE, "uuid": "a2" * 16, "pci_address": "0000:08:00.0"}
SECOND_NVK = {**NVK, "uuid": "b3" * 16, "pci_address": "0000:08:00.0"}
RADEON = device(0, "AMD Radeon RX 6600 (RADV NAVI23)", uuid="c1" * 16, pci_address="0000:03:00.0")
AMDVLK = {**RADEON, "name": "AMD Radeon RX 6600", "driver_id": 2}
