"""The cache of a processor's device holds what NumPy would write, bit by bit, and is copied as bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.vulkan.cases import Case, limits_for, random_cache
from tests.vulkan.reused_cpu import ReusedCpu
from tests.vulkan.test_attention import attention_case, attention_op
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.device import CpuDevice
from tplaunch.worker.device import Copy
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.attention import AttentionHeads, RopeCache, Rotation

LENGTH = 40  # elements of a head: no whole number of vectors, nor of blocks
# Float16's ties, its least numbers and halves of them, what is beyond its largest, zeros of both signs.
EDGES = (
    *(1 + step / 2048 for step in range(8)),
    *(step * 2.0**-26 for step in range(8)),
    *(65504.0, 65519.9, 65520.0, 1e6, -65520.0, -0.0, 0.0, 1e-30),
    *(5.9e-8, -2.9e-8, 6.1e-5, 6.0975e-5, 1e-39, -1e-39, 3.3e38, -3.3e38),
)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_keys_and_values_are_rounded_as_by_numpy(kv_type: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 3 * LENGTH)).astype(np.float32)
    rows[0, LENGTH : LENGTH + len(EDGES)] = rows[1, 2 * LENGTH : 2 * LENGTH + len(EDGES)] = EDGES
    rows[2, LENGTH:] = 0
    rows[3, LENGTH:] *= np.float32(1e-31)  # below what has a scale
    heads = AttentionHeads(1, 1, LENGTH, LENGTH)
    case = Case(
        limits_for(num_blocks=1, block_length=8, max_rows=6, kv_type=kv_type),
        (RopeCache("keys", "values", heads, LENGTH, Rotation(0, 24, False, 8)),),
        {
            "rope": rng.standard_normal((6, 24)).astype(np.float32),
            "qkv": rows,
            "query": np.zeros((6, LENGTH), np.float32),
            "keys": random_cache(rng, kv_type, 8, LENGTH),
            "values": random_cache(rng, kv_type, 8, LENGTH),
        },
        6,
        6,
        positions=tuple(range(6)),
        table_starts=(0,) * 6,
        tables=(0,),
    )
    found, expected = ReusedCpu().run(case), case.run(NumpyDevice(case.limits))
    for name in ("query", "keys", "values"):
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_copied_block_is_read(kv_type: str) -> None:
    """The second of two sequences gets the only block of the first."""
    op = attention_op(key_length=LENGTH, value_length=LENGTH)
    case = attention_case(op, (7, 7), block_length=8, kv_type=kv_type)
    case.arrays["query"][1] = case.arrays["query"][0]
    device = CpuDevice(case.limits, Kernels(cache_folder()))
    first, second = case.run(device)["attended"][:, :LENGTH]
    assert not np.allclose(first, second)
    source, target = case.tables
    sizes, copies = KV_TYPES[kv_type], list[Copy]()
    for name in ("keys", "values"):
        plane = sizes.element_plane_bytes(16, LENGTH)
        for start, nbytes in ((0, plane // 2), (plane, sizes.nbytes(8, LENGTH) - plane // 2)):
            if nbytes:
                copies.append((name, start + source * nbytes, start + target * nbytes, nbytes))
    device.copy(copies)
    copied = dataclasses.replace(
        case, arrays=case.arrays | {name: device.view(name).copy() for name in ("keys", "values")}
    )
    first, second = copied.run(CpuDevice(case.limits, Kernels(cache_folder())))["attended"][:, :LENGTH]
    assert np.array_equal(first, second)
