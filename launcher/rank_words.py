"""The words by which a worker's process knows what its rank has: a device, and cores."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.machine import num_threads
from tplaunch.launcher.memory_nodes import one_of_each_core
from tplaunch.launcher.processors import CPU, NUMPY


def rank_words(choice: DeviceChoice, cores: Sequence[int], num_ranks: int) -> list[str]:
    """Returns the words of a rank. num_ranks: of this host, which share what a container may take of it."""
    words = [_device_word(choice), f"--uuid={choice.uuid}", core_word(cores)]
    if choice.has_threads:
        return [*words, f"--threads={threads_of_kernels(cores, num_ranks)}"]
    return [*words, *(["--one-core"] if choice.takes_one_core else [])]


def core_word(cores: Sequence[int]) -> str:
    return f"--cores={','.join(map(str, cores))}"


def threads_of_kernels(cores: Sequence[int], num_ranks: int) -> int:
    """Counts the threads by which compiled kernels are fastest: one a core, none of which waits for it."""
    return num_threads(len(one_of_each_core(frozenset(cores))), num_ranks)


def _device_word(choice: DeviceChoice) -> str:
    processors = CPU if choice.has_threads else NUMPY
    return f"--device={processors if choice.index is None else choice.index}"
