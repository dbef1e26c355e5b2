"""Checks which cores and memory nodes the words for processors mean, and what kernels need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tplaunch.launcher.commands import show_processors
from tplaunch.launcher.cores import rank_cores, with_cores
from tplaunch.launcher.devices import DeviceChoice, planned_devices, select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.memory_nodes import MemoryNode, memory_nodes, one_of_each_core
from tplaunch.launcher.processors import (
    CPU,
    NUMPY,
    Processors,
    means_processors,
    processor_remarks,
    processors,
)
from tplaunch.launcher.rank_words import rank_words
from tplaunch.worker.cpu import usable
from tplaunch.worker.cpu.bandwidth import read_bandwidth
from tplaunch.worker.cpu.usable import cpu_flags, unusable, why_not

CARD, LAVAPIPE = DeviceChoice(0, "a card", on_cpu=False), DeviceChoice(1, "llvmpipe")
KERNELS, REFERENCE = DeviceChoice(None, CPU), DeviceChoice(None, NUMPY)
FLAGS = frozenset({"avx2", "f16c", "fma"})


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))


def machine(root: Path, **nodes: str) -> Path:
    """Makes a /sys with nodes that have these cores, and siblings as a processor with two threads a core."""
    for name, cores in nodes.items():
        folder = root / "devices/system/node" / name
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cores}\n")
        lines = ("MemTotal: 8000", "MemFree:    3000", "Active(file): 20", "Inactive(file): 1", "Active: 99")
        (folder / "meminfo").write_text("".join(f"Node 0 {line} kB\n" for line in lines))
    for core in range(16):
        folder = root / f"devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 8},{core % 8 + 8}\n")
    return root


@pytest.mark.usefixtures("sixteen_cores")
def test_nodes_are_those_with_cores_for_this_process(tmp_path: Path) -> None:
    root = machine(tmp_path, node1="4-7,12-15", node0="0-3,8-11", node2="", node3="64-95", nodes="0")
    first, second = memory_nodes(root)
    assert first == MemoryNode(0, frozenset([*range(4), *range(8, 12)]), 8000 << 10, 3021 << 10)
    assert (second.number, second.cores) == (1, frozenset([*range(4, 8), *range(12, 16)]))


def test_a_node_is_read_by_its_cores_at_some_speed() -> None:
    before = os.sched_getaffinity(0)
    assert 1e7 < read_bandwidth(sorted(memory_nodes()[0].cores)) < 1e13
    assert os.sched_getaffinity(0) == before  # only those of its threads change


def test_devices_tells_of_memory_nodes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [MemoryNode(0, frozenset({0, 1}), 4 << 30, 1 << 30), MemoryNode(1, frozenset({2}))]
    monkeypatch.setattr(show_processors, "memory_nodes", lambda: nodes)
    monkeypatch.setattr(show_processors, "read_bandwidth", lambda cores: 2e10 / (1 + (2 in cores)))
    first, second = show_processors.processor_numbers()
    assert (first["word"], first["cores"], first["available_bytes"]) == ("cpu:0", [0, 1], 1 << 30)
    assert (second["word"], second["memory_bytes"], second["bytes_per_second"]) == ("cpu:1", None, 1e10)
    show_processors.print_processors()
    said = capsys.readouterr().out
    assert "cores       0-1" in said and "4,096.0 MiB, of which 1,024.0 MiB are available" in said
    assert "20.0 GB/s" in said and "cpus has a rank on each" in said


@pytest.mark.usefixtures("sixteen_cores")
def test_a_machine_that_tells_no_nodes_has_one(tmp_path: Path) -> None:
    assert memory_nodes(tmp_path) == [MemoryNode(0, frozenset(range(16)))]
    assert processors("cpu:0", tmp_path) == processors("cpus", tmp_path)
    assert one_of_each_core(frozenset({1, 9}), tmp_path) == {1, 9}


@pytest.mark.usefixtures("sixteen_cores")
def test_words_name_nodes_by_a_number_and_cores_by_more(tmp_path: Path) -> None:
    root = machine(tmp_path, node0="0-3,8-11", node1="4-7,12-15")
    zero, one = frozenset([*range(4), *range(8, 12)]), frozenset([*range(4, 8), *range(12, 16)])
    for word, expected in {
        "cpu": [Processors("cpu")],
        "numpy": [Processors("numpy")],
        "cpus": [Processors("cpu:0", zero), Processors("cpu:1", one)],
        "cpu:1": [Processors("cpu:1", one)],
        "cpu:1-1": [Processors("cpu:1-1", frozenset({1}))],
        "cpu:2-5": [Processors("cpu:2-5", frozenset(range(2, 6)))],
        "cpu:0-1+9": [Processors("cpu:0-1+9", frozenset({0, 1, 9}))],
    }.items():
        assert means_processors(word) and processors(word, root) == expected


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("cpu:2", "there is no memory node 2 with cores for this process, only 0, 1 .cores are named"),
        ("cpu:12-17", "this process may not use 16-17; it may use 0-15"),
        ("cpu:", "a memory node or cores are needed, such as cpu:0"),
        ("cpu:a-b", "a memory node or cores are needed"),
        ("cpu:3-1", "a memory node or cores are needed"),
    ],
)
def test_what_names_no_cores_is_refused(tmp_path: Path, word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        processors(word, machine(tmp_path, node0="0-7", node1="8-15"))


def test_other_names_are_no_processors() -> None:
    assert not any(map(means_processors, ("0", "all", "cpux", "intel cpu", "numpy:0", "")))


def test_devices_are_taken_in_order_whatever_their_case() -> None:
    core = min(os.sched_getaffinity(0))
    taken = select_devices(f"NumPy,CPU,cpu:{core}-{core}")
    assert [choice.word for choice in taken] == ["numpy", "cpu", f"cpu:{core}-{core}"]
    assert [choice.own_cores for choice in taken] == [frozenset(), frozenset(), frozenset({core})]
    assert [(choice.in_numpy, choice.takes_one_core) for choice in taken] == [
        (True, True),
        *[(False, False)] * 2,
    ]


def test_a_plan_takes_nodes_that_are_elsewhere() -> None:
    choices, why = planned_devices("cpu:97,numpy")
    assert [choice.word for choice in choices] == ["cpu:97", "numpy"] and "no memory node 97" in why


def test_numpy_stands_in_where_there_can_be_no_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(usable, "missing_packages", lambda: ["numba"])
    unusable.cache_clear()
    try:
        assert [choice.in_numpy for choice in select_devices("cpu,cpu")] == [True, True]
        told = capsys.readouterr().err
        assert "NumPy computes here in place of compiled kernels" in told and "numba can't be found" in told
        assert told.count("NumPy computes") == 1
        select_devices("numpy")
        assert capsys.readouterr().err == ""
    finally:
        unusable.cache_clear()


@pytest.mark.parametrize(
    ("name", "flags", "missing", "why"),
    [
        ("x86_64", FLAGS, (), ""),
        ("x86_64", frozenset[str](), (), ""),  # not known
        ("aarch64", frozenset({"asimd"}), (), ""),
        ("x86_64", FLAGS - {"fma", "f16c"}, (), "the processor lacks f16c and fma"),
        ("riscv64", FLAGS, (), "there are none for riscv64 processors"),
        ("aarch64", frozenset[str](), ("numba", "llvmlite"), "numba and llvmlite can't be found"),
    ],
)
def test_kernels_need_a_processor_and_packages(
    name: str, flags: frozenset[str], missing: tuple[str, ...], why: str
) -> None:
    assert why_not(name, flags, missing) == why


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    assert cpu_flags(path) == frozenset()
    path.write_text("processor\t: 0\nflags\t\t: fpu fma avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(path) == {"fpu", "fma", "avx2"}


@pytest.mark.usefixtures("sixteen_cores")
def test_a_hint_tells_of_more_memory_nodes(tmp_path: Path) -> None:
    root = machine(tmp_path, node0="0-7", node1="8-15")
    (hint,) = processor_remarks(["cpu"], ["cpu"], root)
    assert "2 memory nodes; --devices cpus has a rank on each" in hint
    assert not processor_remarks(["cpus"], ["cpu:0", "cpu:1"], root)
    assert not processor_remarks(["cpu"], ["cpu"], tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([KERNELS], [range(16)]),
        ([KERNELS, KERNELS], [range(8), range(8, 16)]),
        ([CARD, KERNELS], [range(2), range(2, 16)]),
        ([CARD, CARD, KERNELS], [range(1), range(8, 9), [*range(1, 8), *range(9, 16)]]),
        ([REFERENCE, KERNELS], [range(2), range(2, 16)]),
        (
            [DeviceChoice(None, "cpu:1", own_cores=frozenset(range(8, 16))), KERNELS],
            [range(8, 16), range(8)],
        ),
    ],
)
def test_kernels_get_the_cores_that_others_leave(
    choices: list[DeviceChoice], expected: list[range | list[int]]
) -> None:
    assert rank_cores(choices, range(16)) == list(map(list, expected))


def test_kernels_are_measured_on_the_cores_that_they_will_have() -> None:
    found = with_cores([CARD, KERNELS, LAVAPIPE, KERNELS], range(16))
    expected = rank_cores([CARD, KERNELS, LAVAPIPE, KERNELS], range(16))
    assert [found[0], found[2]] == [CARD, LAVAPIPE]
    for rank in (1, 3):
        assert rank_cores([found[rank]], range(16)) == [expected[rank]] != [list(range(16))]


def test_ranks_share_cores_where_there_are_too_few() -> None:
    assert rank_cores([LAVAPIPE, KERNELS], [3]) == [[3], [3]]
    assert rank_cores([CARD, KERNELS], [3, 5]) == [[3], [5]]
    assert rank_cores([KERNELS, KERNELS, KERNELS], [3, 5]) == [[3], [5], [3]]


def test_a_thread_computes_on_each_core(tmp_path: Path) -> None:
    root = machine(tmp_path, node0="0-15")
    assert one_of_each_core(frozenset({1, 2, 9, 11}), root) == {1, 2, 11}
    words = rank_words(KERNELS, [3], 1)
    assert {"--device=cpu", "--cores=3", "--threads=1"} < set(words) and "--one-core" not in words
    assert {"--device=numpy", "--one-core"} < set(rank_words(REFERENCE, [3], 1))
    assert {"--device=1", "--one-core"} < set(rank_words(LAVAPIPE, [3], 1))
    assert "--one-core" not in rank_words(CARD, [3], 1)
