"""`tplaunch check` on one device: every kernel against NumPy, one after another, told line by line.

Each line is a JSON object. Each check tells that it begins: where a driver crashes, the last one is to blame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.checking.everything import every_op
from tplaunch.worker.checking.table import SmallOp
from tplaunch.worker.device import DeviceError, DeviceId

if TYPE_CHECKING:  # NumPy ranks need no Vulkan loader
    from tplaunch.worker.vulkan.checking.checker import Checker
    from tplaunch.worker.vulkan.variants import Variant

LIMITS = Limits(context_length=1, num_blocks=1)


def run_check_job(text: str, device_id: DeviceId, options: RankOptions) -> int:
    """The process of one device. `text` is a JSON object: the number of the check to `start` with.

    Prints the device, its driver and the `count` of checks; then of each that it `begin`s, and what it runs;
    then its `end` with the error, null for no number. What fails is told as {"problem": sentence} behind a
    beginning, and as {"error": sentence} otherwise.
    """
    from tplaunch.worker.vulkan.device import VulkanDevice

    try:
        device = VulkanDevice(device_id, options, LIMITS)
        try:
            checker = device.checker()
            ops = every_op(device.info.features, checker.has_matrices)
            runs = [(op, variant) for op in ops for variant in checker.variants(checker.ask(op))]
            _say(device=device.name, driver=device.info.driver, count=len(runs))
            _check(checker, runs[json.loads(text)["start"] :])
            checker.close()
        finally:
            device.close()
    except DeviceError as error:
        _say(error=str(error))
    return 0


def _check(checker: Checker, runs: Sequence[tuple[SmallOp, Variant]]) -> None:
    """Until one fails: what comes after it is no longer sure."""
    for op, variant in runs:
        asked = checker.ask(op)
        kernel, family = asked.kernel_of(variant), asked.family or asked.kernel
        said = f"{op.op}, {op.num_rows} rows, cache {op.kv_type}"
        _say(begin=kernel, family=family, variant=variant.suffix, op=said)
        try:
            error = checker.error(op, variant, kernel)
        except DeviceError as failure:
            _say(problem=str(failure))
            return
        _say(end=kernel, error=error if math.isfinite(error) else None, bound=checker.bound(op))


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)
