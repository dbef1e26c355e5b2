"""Says what `tplaunch devices` tells of processors: their memory nodes, and what computes there."""

from __future__ import annotations

from typing import Any

from tplaunch.launcher.fitting.fit import mebibytes
from tplaunch.launcher.lines import wrapped
from tplaunch.launcher.memory_nodes import MemoryNode, memory_nodes, one_of_each_core
from tplaunch.launcher.near_cores import core_text
from tplaunch.launcher.processors import CPU, CPUS, NUMPY
from tplaunch.launcher.rank_words import threads_of_kernels
from tplaunch.worker.cpu.bandwidth import read_bandwidth
from tplaunch.worker.cpu.usable import unusable


def processor_numbers() -> list[dict[str, Any]]:
    """Returns every memory node with what a rank on it would have. Measures for some tenths of a second."""
    return [_numbers(node) for node in memory_nodes()]


def _numbers(node: MemoryNode) -> dict[str, Any]:
    cores = sorted(node.cores)
    return {
        "word": f"{CPU}:{node.number}",
        "cores": cores,
        "threads": threads_of_kernels(cores, 1),
        "memory_bytes": node.memory_bytes or None,
        "available_bytes": node.available_bytes or None,
        "bytes_per_second": read_bandwidth(sorted(one_of_each_core(node.cores))),
    }


def print_processors() -> None:
    """Prints the same, and which words --devices has for them."""
    found = processor_numbers()
    for numbers in found:
        rows = {
            "cores": f"{core_text(numbers['cores'])}, {numbers['threads']} threads",
            "memory": _memory(numbers),
            "bandwidth": f"{numbers['bytes_per_second'] / 1e9:.1f} GB/s, reading on all of them",
        }
        print(f"{numbers['word']}  processor")
        for title, text in rows.items():
            if text:
                print(wrapped(f"   {title:<11} {text}", " " * 15))
    why = unusable()
    how = f"NumPy, for compiled kernels can't be had: {why}" if why else "compiled kernels"
    plural = f"; {CPUS} has a rank on each" if len(found) > 1 else ""
    print(wrapped(f"{CPU} is all cores, by {how}{plural}. {NUMPY} is the reference, by NumPy on one core."))


def _memory(numbers: dict[str, Any]) -> str:
    if not numbers["memory_bytes"]:
        return ""
    total, available = numbers["memory_bytes"], numbers["available_bytes"] or 0
    return f"{mebibytes(total)}, of which {mebibytes(available)} are available"
