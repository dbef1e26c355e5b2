"""The questions that the dispatcher asks of others, and the dispatch that it answers with."""

from __future__ import annotations

from ctypes import Structure
from dataclasses import dataclass
from typing import Protocol

from tplaunch.worker.vulkan.push_constants.fields import misaligned
from tplaunch.worker.vulkan.variants import Variant

Groups = tuple[int, int, int]


@dataclass(frozen=True)
class Dispatch:
    """`groups` is None where the step buffer says how many."""

    kernel: str
    push: Structure
    groups: Groups | None

    def __post_init__(self) -> None:
        assert not misaligned(self.push), f"{self.kernel}: misaligned {misaligned(self.push)}"


class BufferPlace(Protocol):
    """A buffer's device address, and its row length in float32 elements."""

    @property
    def address(self) -> int: ...

    @property
    def row_length(self) -> int: ...


class Selects(Protocol):
    """Knows which variant of a kernel family runs."""

    def variant(
        self, family: str, matrix_rows: int = 0, matrix_columns: int = 0, program_rows: int = 0
    ) -> Variant: ...


@dataclass(frozen=True)
class PartialsLayout:
    """The place of the arena [2, slots, slot bytes] in the device's memory."""

    address: int
    num_slots: int
    num_partials: int  # the first slots, which are read
    slot_bytes: int
    write_slot: int
    num_parities: int = 2  # which memory that is one device's need not have

    def parity_address(self, parity: int) -> int:
        return self.address + parity % self.num_parities * self.num_slots * self.slot_bytes

    def own_address(self, parity: int) -> int:
        return self.parity_address(parity) + self.write_slot * self.slot_bytes
