"""Compiles kernels for a card that is not there: `python -m tplaunch.worker.vulkan.compiling [NAME ...]`.

RADV offers such a card where RADV_FORCE_FAMILY names its family. This is a process of its own, because a
compiler that crashes takes it along, and because RADV_DEBUG=shaderstats writes its numbers to standard error,
where the name of each kernel stands before them. shaders/stats.py starts this and reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.limits import num_invocations
from tplaunch.shaders.analysis.statistics import MARK
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.foreign import compile_foreign
from tplaunch.worker.vulkan.listing import PhysicalDevice, list_devices
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.variants import FAMILIES, kernel_of

# By the SPIR-V capability: what a device must have so that such kernels are chosen.
GATES = {11: "int64", 65: "subgroup_shuffle", 6019: "integer_dot_product", 6022: "cooperative_matrix"}
OF_EIGHT_LANES = {
    kernel_of(family, variant)
    for family, variants in FAMILIES.items()
    for variant in variants
    if "eight_lanes" in variant.needs
}


def kernels_for(context: Context) -> list[str]:
    """The kernels that dispatches of this device may name."""
    features = context.info.features - (set() if context.matrices else {"cooperative_matrix"})
    return [
        name
        for name in kernel_names()
        if needs(name) <= features and num_invocations(load_kernel(name)) <= context.info.max_invocations
    ]


def needs(name: str) -> set[str]:
    """The features without which a device is not given a kernel."""
    operations = spirv.instructions(load_kernel(name))
    capabilities = {op.operands[0] for op in operations if op.opcode == spirv.OP_CAPABILITY}
    gates = {feature for capability, feature in GATES.items() if capability in capabilities}
    return gates | ({"eight_lanes"} if name in OF_EIGHT_LANES else set())


def made_up_device() -> PhysicalDevice:
    """The first device that is not there. Raises DeviceError where all are."""
    devices = list_devices()
    found = next((device for device in devices if device.is_made_up), None)
    if found is None:
        names = ", ".join(device.name for device in devices) or "none"
        raise DeviceError(
            f"no Vulkan driver here makes a card up (devices: {names}); install RADV"
            " (mesa-vulkan-drivers) and set RADV_FORCE_FAMILY"
        )
    return found


def main() -> int:
    arguments = _parser().parse_args()
    try:
        context = Context(made_up_device().index, only_compiles=True)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"device": context.info.name, "driver": context.info.driver}), flush=True)
    if arguments.module:
        _compile_modules(context, arguments)
    else:
        _compile_kernels(context, arguments.kernels)
    _announce("")
    context.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tplaunch.worker.vulkan.compiling", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="NAME", help="all that the card is given, if none")
    parser.add_argument(
        "--module", action="append", default=[], type=Path, help="a file with another's SPIR-V"
    )
    parser.add_argument("--constant", action="append", default=[], help="ID=VALUE, of those modules")
    parser.add_argument(
        "--subgroup-size", type=int, default=0, help="of those modules; 0: as the driver likes"
    )
    return parser


def _compile_modules(context: Context, arguments: argparse.Namespace) -> None:
    pairs = (text.partition("=") for text in arguments.constant)
    constants = {int(key): int(value) for key, _, value in pairs}
    for module in arguments.module:
        _announce(module.stem)
        compile_foreign(context, module.read_bytes(), constants, arguments.subgroup_size)


def _compile_kernels(context: Context, names: Sequence[str]) -> None:
    pipelines = Pipelines(context)
    for name in kernels_for(context):
        if not names or name in names:
            _announce(name)
            pipelines[name]
    pipelines.close()


def _announce(name: str) -> None:
    print(MARK + name, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
