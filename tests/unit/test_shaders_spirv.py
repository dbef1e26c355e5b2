"""The committed kernels: compiled from the sources that lie beside them, and within what every device has."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import Structure, sizeof
from pathlib import Path

import pytest

from tests.drivers import IN_CI
from tplaunch.shaders import build, matrix_sizes, spirv
from tplaunch.shaders.analysis import limits
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.shaders.spirv import Instruction
from tplaunch.worker.vulkan.pipelines import MAX_PUSH_BYTES
from tplaunch.worker.vulkan.push_constants.kernels import KERNELS

# Vulkan 1.2 with the features that worker/vulkan/context.py enables; numbers are SPIR-V's.
BASELINE = {
    1: "Shader",
    61: "GroupNonUniform",
    63: "GroupNonUniformArithmetic",
    5347: "PhysicalStorageBufferAddresses",
}
COOPERATIVE = {
    9: "Float16",
    5345: "VulkanMemoryModel",
    5346: "VulkanMemoryModelDeviceScope",
    6022: "CooperativeMatrixKHR",
}
EIGHT_LANES = {11: "Int64", 65: "GroupNonUniformShuffle"}
# What kernels with these in their names may need, for devices that have it.
VARIANTS = {
    "wide": {11: "Int64"},
    "teams": {65: "GroupNonUniformShuffle"},
    **dict.fromkeys(("16x4", "4x8"), EIGHT_LANES),
    "dot": {6018: "DotProductInput4x8BitPacked", 6019: "DotProduct"},
    "matrices": COOPERATIVE,
}
SHUFFLES_OF_MATRICES = {65: "GroupNonUniformShuffle"}  # that a device with matrices has for attention
PUSH_CONSTANT_CLASS = 9
OFFSET_DECORATION = 35
COPY_LOGICAL, CONVERT, EXTENDED, PACK_HALF = 400, 115, 12, 58  # the last is of OpExtInst


@pytest.mark.timeout(900)  # on machines that may be busy
def test_the_committed_kernels_are_what_the_sources_give() -> None:
    """By hashes every one was made of its source; one of sixteen is compiled again.

    `python -m tplaunch.shaders.build --check` compiles all of them.
    """
    if build.find_compiler() is None:
        reason = "slangc is not here: pip install --no-deps slangtorch"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    compiler = build.ready_compiler()
    sources = build.read_sources(compiler)
    assert build.changed(sources, build.SPV_FOLDER) == [], "run: make shaders"
    assert sorted(name for source in sources for name in source.names) == kernel_names()
    sample = kernel_names()[::16]
    assert {name: load_kernel(name) for name in sample} == build.compiled(compiler, sources, sample)


def test_a_source_that_was_changed_is_noticed(tmp_path: Path) -> None:
    sources = [build.Source(Path(f"{name}.slang"), (name,), name * 8) for name in ("one", "two")]
    build.write({"one": b"1", "two": b"2"}, tmp_path)
    assert build.changed(sources, tmp_path) == sources
    (tmp_path / build.SOURCES).write_text(build.hashes(sources))
    assert build.changed(sources, tmp_path) == []
    edited = build.Source(Path("two.slang"), ("two",), "other")
    assert build.changed([sources[0], edited], tmp_path) == [edited]
    (tmp_path / "one.spv").unlink()
    assert build.changed(sources, tmp_path) == sources[:1]


def test_a_stale_a_missing_and_a_surplus_kernel_are_noticed(tmp_path: Path) -> None:
    build.write({"same": b"1", "stale": b"1", "surplus": b"1"}, tmp_path)
    assert build.differences({"same": b"1", "stale": b"2", "new": b"1"}, tmp_path) == [
        "new",
        "stale",
        "surplus",
    ]
    build.write({"same": b"1"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["same.spv"]


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_need_nothing_beyond_the_baseline(name: str) -> None:
    module = load_kernel(name)
    needed = {op.operands[0] for op in spirv.instructions(module) if op.opcode == spirv.OP_CAPABILITY}
    allowed = BASELINE.keys() | {number for part in name.split("_") for number in VARIANTS.get(part, ())}
    if name.startswith("attention_matrices_"):
        allowed |= SHUFFLES_OF_MATRICES.keys()
    assert needed <= allowed
    assert spirv.as_words(module)[1] <= 0x00010500, "Vulkan 1.2 takes SPIR-V up to 1.5"


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_cast_no_pointers(name: str) -> None:
    """SwiftShader kills the process over an OpBitcast to a pointer; it has no 64-bit integers to be given."""
    operations = list(spirv.instructions(load_kernel(name)))
    pointers = {op.operands[0] for op in operations if op.opcode == spirv.OP_TYPE_POINTER}
    casts = [op for op in operations if op.opcode == spirv.OP_BITCAST and op.operands[0] in pointers]
    assert casts == [] or (name.startswith(("gather_partials", "exchange_norm")) and name.endswith("_wide"))


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_copy_no_push_constants_and_leave_no_rounding_to_the_driver(name: str) -> None:
    """SwiftShader overwrites memory over OpCopyLogical; PackHalf2x16 rounds toward zero on AMD's cards.

    Only kernels with matrices convert, on devices that are told how to (shaders/execution_modes.py).
    """
    operations = list(spirv.instructions(load_kernel(name)))
    assert not [op for op in operations if op.opcode == COPY_LOGICAL]
    assert not [op for op in operations if op.opcode == EXTENDED and op.operands[3] == PACK_HALF]
    assert limits.has_matrices(load_kernel(name)) or CONVERT not in {op.opcode for op in operations}


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_hold_no_debug_information(name: str) -> None:
    assert not [op for op in spirv.instructions(load_kernel(name)) if op.opcode in build.DROPPED]


def test_matrices_have_the_sizes_that_the_host_chooses() -> None:
    """M x K by K x N into M x N, by the ids of specialisation constants, which stand before the types."""
    sizes: dict[int, int] = {}
    found: list[tuple[int, ...]] = []
    for op in spirv.instructions(load_kernel("matrices_q8_0")):
        if op.opcode == spirv.OP_DECORATE and op.operands[1] == matrix_sizes.SPEC_ID_DECORATION:
            sizes[op.operands[0]] = op.operands[2]
        elif op.opcode == spirv.OP_SPEC_CONSTANT:
            found.append((sizes[op.operands[1]],))
        elif op.opcode == spirv.OP_TYPE_COOPERATIVE_MATRIX:
            found.append(tuple(sizes[size] for size in op.operands[3:5]))
    assert sorted(found[:3]) == [(0,), (1,), (2,)]
    assert sorted(found[3:]) == [(0, 1), (0, 2), (2, 1)]


def test_every_kernel_is_in_the_table() -> None:
    assert set(KERNELS) == set(kernel_names())


@pytest.mark.parametrize("name", KERNELS)
def test_push_constants_lie_where_the_kernel_reads_them(name: str) -> None:
    structure = KERNELS[name]
    assert dict(push_constants(load_kernel(name))) == host_fields(structure)
    assert sizeof(structure) <= MAX_PUSH_BYTES


def host_fields(structure: type[Structure]) -> dict[str, int]:
    """Byte offset by name."""
    return {field[0]: getattr(structure, field[0]).offset for field in structure._fields_}


def push_constants(module: bytes) -> Iterator[tuple[str, int]]:
    """Name and byte offset of every member of the push constant block."""
    operations = list(spirv.instructions(module))
    block = push_struct(operations).operands[0]
    offsets = {
        op.operands[1]: op.operands[3]
        for op in operations
        if op.opcode == spirv.OP_MEMBER_DECORATE
        and op.operands[0] == block
        and op.operands[2] == OFFSET_DECORATION
    }
    names, _ = push_block(operations)
    return ((name, offsets[number]) for number, name in enumerate(names))


def push_block(operations: list[Instruction]) -> tuple[list[str], tuple[int, ...]]:
    """The names and the types of the members of the push constant block."""
    block, *types = push_struct(operations).operands
    names = {
        op.operands[1]: op.text(2)
        for op in operations
        if op.opcode == spirv.OP_MEMBER_NAME and op.operands[0] == block
    }
    return [names[number] for number in range(len(types))], tuple(types)


def push_struct(operations: list[Instruction]) -> Instruction:
    """The declaration of the push constant block."""
    variable = next(
        op for op in operations if op.opcode == spirv.OP_VARIABLE and op.operands[2] == PUSH_CONSTANT_CLASS
    )
    types = {
        op.operands[0]: op for op in operations if op.opcode in (spirv.OP_TYPE_POINTER, spirv.OP_TYPE_STRUCT)
    }
    block = types[types[variable.operands[0]].operands[2]]
    members = block.operands[1:]
    if len(members) == 1 and members[0] in types:  # Slang wraps a struct that is a parameter
        return types[members[0]]
    return block


def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tplaunch.shaders.load.SPV_FOLDER", tmp_path)
    (tmp_path / "broken.spv").write_bytes(b"not SPIR-V, but long enough")
    with pytest.raises(ValueError, match="does not begin with SPIR-V's magic number"):
        load_kernel("broken")
    with pytest.raises(KeyError, match="no kernel is called 'missing'"):
        load_kernel("missing")
