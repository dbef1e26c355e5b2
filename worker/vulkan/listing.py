"""Describes each Vulkan device and its abilities as plain data, and why one can't run the kernels."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from tplaunch.coordinator.options import FEATURES
from tplaunch.worker.vulkan import subgroups
from tplaunch.worker.vulkan.api import Handle, chained, extensions_of, ffi, lib, struct, text, vk
from tplaunch.worker.vulkan.compute_units import UNKNOWN, compute_units
from tplaunch.worker.vulkan.external_memory import (
    DMA_BUF_EXTENSIONS,
    IMPORT_EXTENSION,
    exports_dma_bufs,
    imports_dma_bufs,
    imports_host_memory,
)
from tplaunch.worker.vulkan.heaps import largest_local_heap
from tplaunch.worker.vulkan.instance import Instance
from tplaunch.worker.vulkan.matrices import matrix_shape
from tplaunch.worker.vulkan.queues import best_family, queue_families
from tplaunch.worker.vulkan.subgroups import SubgroupSizes

LEAST_TEAM_LANES = 16
WITHOUT_TEAMS = ("cpu",)  # types of devices
CARD_INVOCATIONS, CARD_LANES = 256, 64
VERSION_1_2, VERSION_1_3 = (1, 2), (1, 3)
LANES = 8  # of a subgroup, for shaders/tiled_lanes.slang
BUDGET_EXTENSION = "VK_EXT_memory_budget"
PCI_EXTENSION = "VK_EXT_pci_bus_info"
TYPES = ("other", "integrated", "discrete", "virtual", "cpu")  # as VkPhysicalDeviceType counts them


@dataclass(frozen=True)
class PhysicalDevice:
    """One device as the loader lists it; `index` is its place in that list."""

    index: int
    name: str
    type: str  # one of TYPES
    driver: str  # name and version, as the driver words them
    driver_version: int  # as its maker counts
    driver_id: int  # VkDriverId, by which drivers of one card are told apart; 0 before Vulkan 1.2
    uuid: str  # stable for one device and driver
    vendor_id: int
    device_id: int
    pci_address: str  # as Linux writes it, 0000:01:00.0; empty where the driver does not say
    api_version: tuple[int, int]
    memory_bytes: int  # of the largest device-local heap
    available_bytes: int  # of that heap, for a process that begins now; all of it where the driver can't say
    max_allocation: int  # bytes
    max_workgroup_counts: tuple[int, int, int]
    max_invocations: int  # of a workgroup, along one dimension
    subgroup_size: int
    min_subgroup_size: int
    max_subgroup_size: int
    import_alignment: int  # bytes, of imported host memory; 0 where that can't be
    integer_dot_product: bool
    int64: bool
    float16: bool
    cooperative_matrix: bool
    eight_lanes: bool  # in every subgroup
    unusable: str | None  # why the kernels can't run on it
    dma_buf_import: bool = False  # as its driver says
    dma_buf_export: bool = False  # the same
    subgroup_shuffle: bool = False
    required_subgroup_size: int = 0  # that kernels are compiled for; 0 where the driver chooses
    full_subgroups: bool = False  # kernels may ask that all lanes of theirs run
    is_made_up: bool = False  # there is no such card: its driver only compiles for it
    compute_units: int = UNKNOWN  # that run workgroups independently of each other
    integer_dot_accelerated: bool = False  # as its driver says; timing decides what uses these
    compute_queue: bool = False  # it computes in a queue that draws nothing
    matrices: tuple[int, ...] = ()  # rows, columns and depth of those that kernels multiply, as far as asked

    @property
    def features(self) -> frozenset[str]:
        """The members of FEATURES that it has, and "cpu" or "card" as it is: what kernels may need."""
        found = [name for name in FEATURES if getattr(self, name)]
        return frozenset([*found, "cpu"] if self.type == "cpu" else [*found, *["card"] * self.is_card])

    @property
    def is_card(self) -> bool:
        """Tells if it is no CPU, and has room for kernels that split a row over a workgroup.

        Subgroups wider than the small workgroups of other kernels would have more lanes there than in those,
        and so other sums.
        """
        fits = self.max_invocations >= CARD_INVOCATIONS and self.sizes.widest <= CARD_LANES
        return fits and self.type != "cpu"

    @property
    def kind(self) -> str:
        """The same for devices that are made alike and have the same driver: they compute the same bits."""
        hardware = f"{self.vendor_id:04x}:{self.device_id:04x}"
        return f"{self.name}, {hardware}, {self.driver} ({self.driver_id}, {self.driver_version})"

    @property
    def sizes(self) -> SubgroupSizes:
        """The sizes of its subgroups, and the one that kernels ask for."""
        return SubgroupSizes(
            self.min_subgroup_size, self.max_subgroup_size, self.required_subgroup_size, self.full_subgroups
        )

    @property
    def team_lanes(self) -> int:
        """Lanes that teams of attention may have (shaders/attend_teams.slang); 0 where there are none.

        CPU drivers run subgroups one after another, so that one does as well alone; lavapipe with 16 lanes
        (LP_NATIVE_VECTOR_WIDTH=512) moreover takes minutes to compile some of them.
        """
        lanes = self.sizes.narrowest
        has_teams = self.subgroup_shuffle and lanes >= LEAST_TEAM_LANES and self.type not in WITHOUT_TEAMS
        return lanes if has_teams else 0

    @property
    def host_memory_import(self) -> bool:
        """Tells if the driver says that it imports; only trying shows if what is written arrives."""
        return self.import_alignment > 0


def list_devices() -> list[PhysicalDevice]:
    """Every Vulkan device of this machine. Raises DeviceError without a loader."""
    instance = Instance()
    try:
        devices = []
        for index, handle in enumerate(instance.physical_devices()):
            device = describe(index, handle)
            shape = matrix_shape(instance, handle, device)
            devices.append(replace(device, matrices=astuple(shape) if shape else ()))
        return devices
    finally:
        instance.close()


def describe(index: int, handle: Handle) -> PhysicalDevice:
    """Asks the driver. Also tells about a device that is too old to use."""
    query = _Query(handle)
    base, core11, core12 = query.base, query.core11, query.core12
    features12, features13 = query.features12, query.features13
    has_budget = BUDGET_EXTENSION in query.extensions and not query.is_made_up
    has_control, is_1_3 = subgroups.EXTENSION in query.extensions, query.api_version >= VERSION_1_3
    sizes = subgroups.subgroup_sizes(handle, core11.subgroupSize, base.vendorID, has_control, is_1_3)
    memory_bytes, available_bytes = largest_local_heap(handle, has_budget)
    return PhysicalDevice(
        index=index,
        name=text(base.deviceName),
        type=TYPES[base.deviceType] if base.deviceType < len(TYPES) else TYPES[0],
        driver=f"{text(core12.driverName)} {text(core12.driverInfo)}".strip(),
        driver_version=base.driverVersion,
        driver_id=int(core12.driverID),
        uuid=bytes(core11.deviceUUID).hex(),
        vendor_id=base.vendorID,
        device_id=base.deviceID,
        pci_address=query.pci_address,
        api_version=query.api_version,
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        max_allocation=query.max_allocation,
        max_workgroup_counts=tuple(base.limits.maxComputeWorkGroupCount),
        max_invocations=min(
            base.limits.maxComputeWorkGroupInvocations, base.limits.maxComputeWorkGroupSize[0]
        ),
        subgroup_size=core11.subgroupSize,
        min_subgroup_size=sizes.least,
        max_subgroup_size=sizes.most,
        import_alignment=query.import_alignment,
        integer_dot_product=bool(features13.shaderIntegerDotProduct),
        int64=bool(query.features.shaderInt64),
        float16=bool(features12.shaderFloat16),
        cooperative_matrix="VK_KHR_cooperative_matrix" in query.extensions,
        eight_lanes=(sizes.least, sizes.most) == (LANES, LANES),
        unusable=_unusable(query),
        dma_buf_import=query.extensions.issuperset(DMA_BUF_EXTENSIONS) and imports_dma_bufs(handle),
        dma_buf_export=query.extensions.issuperset(DMA_BUF_EXTENSIONS) and exports_dma_bufs(handle),
        subgroup_shuffle=bool(core11.subgroupSupportedOperations & vk.VK_SUBGROUP_FEATURE_SHUFFLE_BIT),
        required_subgroup_size=sizes.required,
        full_subgroups=sizes.full,
        is_made_up=query.is_made_up,
        integer_dot_accelerated=bool(query.core13.integerDotProduct4x8BitPackedSignedAccelerated),
        compute_units=compute_units(handle, query.extensions),
        compute_queue=query.queue_family is not None and query.queue_family.only_computes,
    )


class _Query:
    """The property and feature structs of one device; structs newer than the device stay zero."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.extensions = extensions_of(handle)
        self.queue_family = best_family(queue_families(handle))
        properties = ffi.new("VkPhysicalDeviceProperties *")
        lib.vkGetPhysicalDeviceProperties(handle, properties)
        self.base = properties[0]
        version = self.base.apiVersion
        self.api_version = (version >> 22 & 0x7F, version >> 12 & 0x3FF)
        self._query_properties()
        self._query_features()

    @property
    def is_made_up(self) -> bool:
        """Tells if RADV only pretends that there is a card: it knows the address of every real one.

        It does so where RADV_FORCE_FAMILY is set, and crashes when it is asked how much memory is free.
        """
        is_radv = int(self.core12.driverID) == vk.VK_DRIVER_ID_MESA_RADV
        return is_radv and PCI_EXTENSION in self.extensions and not self.pci_address

    def _query_properties(self) -> None:
        self.core11 = struct("VkPhysicalDeviceVulkan11Properties")
        self.core12 = struct("VkPhysicalDeviceVulkan12Properties")
        imports = struct("VkPhysicalDeviceExternalMemoryHostPropertiesEXT")
        self.core13 = struct("VkPhysicalDeviceVulkan13Properties")
        chain = self._known([self.core11, self.core12], [self.core13])
        chain += [imports] if IMPORT_EXTENSION in self.extensions else []
        place = struct("VkPhysicalDevicePCIBusInfoPropertiesEXT")
        chain += [place] if PCI_EXTENSION in self.extensions else []
        head = struct("VkPhysicalDeviceProperties2", pNext=chained(chain))
        lib.vkGetPhysicalDeviceProperties2(self.handle, head)
        self.pci_address = _pci_address(place)
        # Each allocation is one buffer. How much a descriptor sees does not matter: kernels have addresses.
        sizes = self.core11.maxMemoryAllocationSize, self.core13.maxBufferSize
        self.max_allocation = min((size for size in sizes if size), default=0)
        says_so = IMPORT_EXTENSION in self.extensions and imports_host_memory(self.handle)
        self.import_alignment = int(imports.minImportedHostPointerAlignment) if says_so else 0

    def _query_features(self) -> None:
        self.features12 = struct("VkPhysicalDeviceVulkan12Features")
        self.features13 = struct("VkPhysicalDeviceVulkan13Features")
        chain = self._known([self.features12], [self.features13])
        head = struct("VkPhysicalDeviceFeatures2", pNext=chained(chain))
        lib.vkGetPhysicalDeviceFeatures2(self.handle, head)
        self._head = head  # owns what features looks into
        self.features = head.features

    def _known(self, of_1_2: list[Handle], of_1_3: list[Handle]) -> list[Handle]:
        """The structs that this device's version defines."""
        return of_1_2 * (self.api_version >= VERSION_1_2) + of_1_3 * (self.api_version >= VERSION_1_3)


def _pci_address(place: Handle) -> str:
    """Empty for 0000:00:00.0, which no card has: it stands for a driver that does not know."""
    numbers = (place.pciDomain, place.pciBus, place.pciDevice, place.pciFunction)
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*numbers) if any(numbers) else ""


def _unusable(query: _Query) -> str | None:
    if query.is_made_up:
        return "its driver makes it up, to compile for a card that is not there (RADV_FORCE_FAMILY)"
    if query.api_version < VERSION_1_2:
        return "Vulkan {}.{} where 1.2 is needed".format(*query.api_version)
    operations = vk.VK_SUBGROUP_FEATURE_BASIC_BIT | vk.VK_SUBGROUP_FEATURE_ARITHMETIC_BIT
    core11 = query.core11
    has_subgroups = core11.subgroupSupportedStages & vk.VK_SHADER_STAGE_COMPUTE_BIT
    if not has_subgroups or core11.subgroupSupportedOperations & operations != operations:
        return "no subgroup arithmetic in compute shaders"
    for feature in ("timelineSemaphore", "bufferDeviceAddress"):
        if not getattr(query.features12, feature):
            return f"the feature {feature} is missing"
    return "no queue that computes" if query.queue_family is None else None
