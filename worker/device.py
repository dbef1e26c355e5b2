"""The interface of a device: it holds named buffers and runs programs over them, a segment at a time.

VulkanDevice records a program into command buffers; NumpyDevice runs the same ops in NumPy. The worker's
loop knows only this interface.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import Backing
from tplaunch.worker.buffers.cuts import ShortCuts
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.programs.program import Program

# What a worker's log says last where a driver crashed in a kernel; the kernel's name follows.
CHECKING = "checking the kernel"
COMPILING = "compiling the kernels"
# What to do about a kernel that is wrong, or that a driver does not survive.
CHECK_HELP = (
    "`--devices cpu` works without it; please report it to tplaunch's developers with the output of"
    " `tplaunch check --json`"
)


class DeviceError(RuntimeError):
    """The device failed or can't do what is asked; one sentence with the call and the result."""


class KernelRefused(DeviceError):
    """The driver does not compile a kernel; the message names its call and the VkResult."""


class NotInstalledError(DeviceError):
    """A part of Vulkan is not installed. `part` is loader or driver."""

    def __init__(self, part: str, sentence: str) -> None:
        super().__init__(sentence)
        self.part = part


@dataclass(frozen=True)
class DeviceId:
    """Which device a worker opens; the launcher gives it on the worker's command line."""

    index: int | None  # the device's place in the loader's list; None for what needs no driver
    uuid: str = ""  # hex; another device at this index is refused
    num_threads: int = 0  # of compiled kernels, where there is no index; 0 for NumPy


# Ways in which a device shares the arena with other ranks, in the order in which they are tried: it imports
# the host's memory, or a dma-buf of the file behind that; or all ranks of the host move the arena to memory
# that one of their devices exports; or the host copies to memory of its and from there.
IMPORT, DMA_BUF, EXPORT, COPY = SHARINGS = ("import", "dma-buf", "export", "copy")
OWN_SHARINGS = (IMPORT, DMA_BUF, COPY)  # that a device goes by itself
SHARING_WORDS = {
    IMPORT: "imported host memory",
    DMA_BUF: "a dma-buf of host memory",
    EXPORT: "memory that a device exports",
    COPY: "copies that the host makes",
}

Place = tuple[int, int]  # offset and length in bytes
Copy = tuple[str, int, int, int]  # a buffer, the offsets of the source and of the destination, and bytes
FillPlaces = Callable[[list[npt.NDArray[np.uint8]]], None]  # gets the memory of each place


class Device(Protocol):
    """A device that runs one program at a time.

    A step: submit(program); then for every segment finish(i), the all-reduce of its partial sums by the
    caller, release(i + 1); at last finish(last). Between submit and the last finish nothing else is called.
    """

    name: str
    kind: str  # with what it is made of and its driver: devices of one kind compute the same bits
    max_buffer_bytes: int  # of one buffer; larger matrices are cut
    tells_prompts_apart: bool  # rows of prompts are multiplied in another arithmetic than generated ones
    groups_logits: bool  # its steps end in the groups of logits: worker/ops/logits.py
    prompt_rows: int  # that a step needs to keep it busy: fewer of a prompt take about as long

    @property
    def sharing(self) -> str:
        """How partial sums reach the arena, one of SHARINGS; what is copied is so around each all-reduce."""

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        """Allocates; zero-filled unless for weights. DeviceError where memory is short, naming the sizes."""

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        """Has `write` put bytes into places of a buffer; while loading only, from any thread.

        All places together are a few MiB. What `write` gets may be memory that is copied afterwards.
        """

    def finish_loading(self) -> Sequence[str]:
        """All weights are written: gives back what only that needed.

        Returns what the user should know of the memory, a sentence each.
        """

    def view(self, buffer: str) -> npt.NDArray[np.uint8]:
        """The memory of an UPLOAD or READBACK buffer, shared with the device."""

    def attach_partials(self, arena: npt.NDArray[np.uint8], write_slot: int, num_partials: int) -> None:
        """Makes the collective's arena [2, slots, slot bytes] the buffer "partials".

        The kernels write slot `write_slot` and read the first `num_partials` slots of one parity. Where the
        device can't import the host's memory it keeps a copy, and copies around each all-reduce.
        """

    def prepare(self, program: Program) -> None:
        """Compiles or records what the program needs, so that submit is quick. Idempotent."""

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copies bytes inside buffers, before the next submit; between steps only.

        No bytes are copied to twice, and none both to and from.
        """

    def submit(self, program: Program, num_rows: int) -> None:
        """Starts a prepared program for the rows in the step buffer; its first segment begins at once."""

    def finish(self, segment: int) -> None:
        """Waits for a segment's end; its partial sums then lie in the arena. DeviceError on a timeout."""

    def release(self, segment: int) -> None:
        """Lets a segment begin: the arena holds all partial sums of the one before."""

    def close(self) -> None:
        """Gives everything back. Idempotent."""


@runtime_checkable
class TimedDevice(Protocol):
    """A device that can tell when it computed."""

    def step_times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        """Begin and end of each segment of the last step [segments, 2], and of each exchange with other
        devices in it [exchanges, 2], in seconds of its own clock.

        None where it was opened without timestamps, or has none.
        """


@runtime_checkable
class WatchedDevice(Protocol):
    """A device that its driver may take for dead while it computes."""

    most_operations: float  # of one op, which can't be cut; infinite where nobody watches


@runtime_checkable
class WaitingDevice(Protocol):
    """A device with several ways to find out that a segment has ended, or to need no host between
    segments."""

    @property
    def on_cpu(self) -> bool:
        """Tells whether it computes on the cores that this process may use."""

    @property
    def card(self) -> str:
        """The same for all that are one card of this machine; empty for what is on a CPU."""

    def wait_by(self, way: str) -> None:
        """From now on, for what is prepared from now on: asleep to "block", awake at first to "poll", or by a
        "word" that the device writes."""

    def attach_words(self, words: npt.NDArray[np.uint8], rank: int, num_ranks: int) -> None:
        """Makes memory that all ranks' devices see the buffer of worker/ops/exchange.py, for programs with
        gathers. Raises DeviceError where the device can't see it."""

    def tries_exchange(self, program: Program, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Runs a program of two gathers, one of each parity, of this rank's values [2, elements].

        Returns what has come of all ranks [2, ranks, elements].
        """


@runtime_checkable
class SharingDevice(Protocol):
    """A device with several ways to share the arena; a way may seem to work and not do so."""

    has_own_memory: bool  # which the host does not compute in

    def back_partials(self, backing: Backing) -> None:
        """Tells the file behind the arena that will be attached."""

    def share_otherwise(self) -> bool:
        """Attaches the arena by the next way, before any program is prepared. False where there is none."""

    def put_partials(self, values: npt.NDArray[np.float32]) -> None:
        """Has the device write its slot of parity 0 of the arena, a few elements; for trying only."""

    def seen_partials(self, count: int) -> npt.NDArray[np.float32]:
        """Returns elements of parity 0 as the device reads them [num_partials, count]; for trying only."""


class Mover(Protocol):
    """A device's part where the ranks of a host move the arena, and the words behind it, to memory that one
    of their devices exports. Before any program is prepared, and before words are attached."""

    can_export: bool  # as its driver says
    can_move: bool  # to what another device exports

    def export(self, num_bytes: int) -> int:
        """Allocates memory to move to. Returns a descriptor of it, the caller's to close; or DeviceError."""

    def move(self, arena: npt.NDArray[np.uint8], descriptor: int, num_bytes: int) -> None:
        """Attaches an arena that begins so many bytes, exported: by this device where it did so before.

        The descriptor stays the caller's. Raises DeviceError, and all is as before.
        """

    def end_move(self, stays: bool) -> None:
        """Gives back what the arena was attached by before; or where it does not stay, what move() took and
        export() made. Idempotent."""


@runtime_checkable
class MovingDevice(Protocol):
    """A device that may share the arena only where it is moved."""

    mover: Mover


@runtime_checkable
class CuttingDevice(Protocol):
    """A device that may want fewer keys in a cut of attention than others: worker/buffers/cuts.py."""

    def short_cuts(self, lengths: Collection[tuple[int, int]], groups: int) -> ShortCuts:
        """Returns the rows of which cuts are shorter.

        lengths: elements of keys and of values, of all layers. groups: workgroups that a cut of a row has.
        """


@runtime_checkable
class SelfCheckingDevice(Protocol):
    """A device whose kernels a driver may compile wrong."""

    def prove(self, programs: Sequence[Program]) -> Sequence[str]:
        """Runs each kernel of these programs against NumPy; once, before it is tuned or buffers are created.

        From then on only right ones are used. Returns a sentence for each that is not; raises DeviceError
        where none is right.
        """


@runtime_checkable
class CompilingDevice(Protocol):
    """A device whose kernels are compiled on this machine, which takes seconds."""

    def compile_kernels(self, programs: Sequence[Program], tell: Callable[[str], None]) -> Sequence[str]:
        """Compiles what these programs need and no earlier start has left; tells how far that is.

        Before weights are loaded. Returns a sentence on it, or none where all was there.
        """


@dataclass(frozen=True)
class Rounding:
    """The parts of a prompt's rows that are computed from rounded numbers; the others are in float32."""

    products: bool = False
    attention: bool = False


@runtime_checkable
class RoundingDevice(Protocol):
    """A device that may have other kernels for rounded rows of prompts: for float16, or for integers."""

    def prefers_rounded(self, programs: Sequence[Program]) -> tuple[Rounding, Sequence[str]]:
        """Tells which parts of these programs, which have all rounded, are right and faster than float32.

        Where float16 is what the user wants, being right is enough. Measures what it has not measured before.
        Once, where it is tuned; with a sentence for what is wrong.
        """


@runtime_checkable
class TunableDevice(Protocol):
    """A device with several ways to do the same."""

    quicker_as_floats: frozenset[str]  # weight types for which quantizing activations does not pay

    def tune(self, program: Program) -> None:
        """Chooses the fastest for this program and others of its model; once, before buffers are created."""


def most_operations(device: Device) -> float:
    """Returns the operations that one op may have on a device."""
    return device.most_operations if isinstance(device, WatchedDevice) else math.inf
