"""The facts that the dispatches of a program share: addresses, the cache's pages, chosen variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.ops.attention import Attention, RopeCache
from tplaunch.worker.ops.common import MatMul, Quantize
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.dispatch.places import BufferPlace, PartialsLayout, Selects
from tplaunch.worker.vulkan.variants import needed_invocations

GROUP_SIZE = 64  # invocations of a workgroup
# Workgroups in one dimension that every device has; shaders/product.slang and quantize.slang count on it.
MAX_GRID = 65535
# Lanes of a subgroup: so few, and the sums of a large kernel's many subgroups take long; so many has a GPU.
FEW_LANES, MANY_LANES = 8, 32
FLOAT, QUAD = 4, 16  # bytes of float and float4
COUNT_WORDS = {"rows": 0, "logit_rows": 1}  # where the step buffer counts these


class DispatchContext:
    """The context of the dispatches of one program on one device."""

    def __init__(
        self,
        program: Program,
        places: Callable[[str], BufferPlace],
        partials: PartialsLayout,
        limits: Limits,
        max_subgroup_size: int,
        max_invocations: int,
        selection: Selects,
        team_lanes: int = 0,
    ) -> None:
        self.program, self._places, self.partials = program, places, partials
        self.limits, self.layout, self.selection = limits, StepLayout(limits), selection
        self.kv_type = KV_TYPES[limits.kv_type]
        self.team_lanes = team_lanes
        # A device may run narrower subgroups than its widest; then groups are left over, and end at once.
        self.subgroups = max(1, GROUP_SIZE // max_subgroup_size)
        self.has_few_lanes = max_subgroup_size <= FEW_LANES
        self.sum_norm = _sum_norm(max_subgroup_size, max_invocations)

    def address(self, name: str) -> int:
        """Returns the address of a buffer on the device."""
        return self._places(name).address

    def address_or_none(self, name: str | None) -> int:
        """Returns the address of a buffer that an op may lack, or 0."""
        return 0 if name is None else self.address(name)

    def stride(self, name: str) -> int:
        """Elements of a row of a buffer."""
        return self._places(name).row_length

    def quads(self, name: str) -> int:
        """Returns how many float4 a row of a buffer is, which kernels load whole."""
        quads, rest = divmod(self.stride(name) * FLOAT, QUAD)
        assert not rest, f"a row of {name!r} has {self.stride(name)} elements: no whole number of float4"
        return quads

    def num_rows(self, op: MatMul | Quantize) -> int:
        """Returns the number of rows that a program has for an op."""
        return self.program.rows if op.rows == "rows" else self.program.logit_rows

    def paging(self, op: RopeCache | Attention) -> dict[str, int]:
        """Returns the constants by which a kernel finds a row's place in the paged cache."""
        layout = self.layout
        return {
            "positions": layout.positions,
            "table_starts": layout.table_starts,
            "tables": layout.window_tables if op.windowed else layout.tables,
            "block_length": self.limits.block_length,
        }

    def caches(self, op: RopeCache | Attention) -> dict[str, int]:
        """Returns the addresses of an op's keys and values, and of their scales."""
        key, value = self.address(op.key_cache), self.address(op.value_cache)
        value_length = op.key_length if op.value_in_key else op.value_length
        num_cells = self.limits.pool(op.windowed) * self.limits.block_length * op.num_kv_heads
        return {
            "key_cache": key,
            "key_scales": key + self.kv_type.element_plane_bytes(num_cells, op.key_length),
            "value_cache": value,
            "value_scales": value + self.kv_type.element_plane_bytes(num_cells, value_length),
        }


def _sum_norm(max_subgroup_size: int, max_invocations: int) -> str:
    """Returns the kernel of sums with norms: the one with most invocations that the device is good for."""
    if max_subgroup_size >= MANY_LANES and max_invocations >= needed_invocations("sum_norm_1024"):
        return "sum_norm_1024"
    is_small = max_subgroup_size <= FEW_LANES or max_invocations < needed_invocations("sum_norm")
    return "sum_norm_64" if is_small else "sum_norm"


def ceil(count: int, size: int) -> int:
    """Pieces of a size that hold a count."""
    return -(-count // size)


def flags_of(which: Mapping[int, bool]) -> int:
    """Flags that are set, as one number of push constants."""
    return sum(flag for flag, is_set in which.items() if is_set)
