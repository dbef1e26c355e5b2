"""Compiles all kernels that the first Vulkan device is given: `python -m tests.vulkan.compile_kernels`.

For test_radv.py, which runs it in a process of its own: a compiler that crashes takes that with it. The name
of each kernel stands on standard error before what the driver says there about it.
"""

from __future__ import annotations

import sys

from tplaunch.shaders import spirv
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.worker.vulkan import listing
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.context import LARGE_KERNELS
from tplaunch.worker.vulkan.pipelines import Pipelines

MARK = "== "
# By the SPIR-V capability: what a device must have so that such kernels are chosen.
GATES = {11: "int64", 6019: "integer_dot_product", 6022: "cooperative_matrix"}


def kernels_for(context: Context) -> list[str]:
    """The kernels that dispatches of this device may name."""
    features = context.info.features - (set() if context.matrix_size else {"cooperative_matrix"})
    return [
        name
        for name in kernel_names()
        if needs(name) <= features
        and LARGE_KERNELS.get(name, 0) <= context.info.max_invocations
        and not ("_coop" in name and not name.endswith(f"_coop{context.matrix_size}"))
    ]


def needs(name: str) -> set[str]:
    """The features without which a device is not given a kernel."""
    operations = spirv.instructions(load_kernel(name))
    capabilities = {op.operands[0] for op in operations if op.opcode == spirv.OP_CAPABILITY}
    gates = {feature for capability, feature in GATES.items() if capability in capabilities}
    return gates | ({"eight_lanes"} if "_lanes_" in name else set())


def main() -> None:
    listing.PCI_EXTENSION = listing.BUDGET_EXTENSION = ""  # it passes for a card that is there
    context = Context(0)
    assert not context.info.unusable, context.info.unusable
    print(context.info.name)
    pipelines = Pipelines(context)
    for name in kernels_for(context):
        print(MARK + name, file=sys.stderr, flush=True)
        pipelines[name]
    print(MARK + "end", file=sys.stderr, flush=True)
    pipelines.close()
    context.close()


if __name__ == "__main__":
    main()
