"""`tplaunch tune` on one device: measures anew what models may choose, keeps it, and prints it as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import DeviceError, DeviceId
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment


@dataclass(frozen=True)
class TuningJob:
    """What is to be measured: the products and the attention of some models, each once."""

    kv_type: str
    activations: str  # as the user wants them
    matrices: tuple[tuple[str, int, int, str], ...]  # type, rows, columns, and the activations they get
    attentions: tuple[dict[str, Any], ...]  # fields of the ops

    @staticmethod
    def of(programs: Iterable[Program], kv_type: str, activations: str) -> TuningJob:
        """That of all these programs."""
        matrices: dict[tuple[str, int, int, str], None] = {}
        attentions: dict[Attention, dict[str, Any]] = {}
        ops = [op for program in programs for segment in program.segments for op in segment.ops]
        for op in ops:
            if isinstance(op, MatMul):
                matrices[op.matrix.type, op.matrix.rows, op.matrix.columns, op.activations] = None
            elif isinstance(op, Attention):
                attention = dataclasses.replace(op, key_cache="keys", value_cache="values")
                attentions[attention] = dataclasses.asdict(attention)
        return TuningJob(kv_type, activations, tuple(matrices), tuple(attentions.values()))

    def program(self) -> Program:
        """Of these ops, in two segments: a step of one has no way to be submitted in parts."""
        products = [
            MatMul(Matrix("matrix", *matrix[:3]), None, "input", "output", 0, "rows", activations=matrix[3])
            for matrix in self.matrices
        ]
        attentions = [Attention(**fields) for fields in self.attentions]
        return Program(1, 1, (Segment((*products, *attentions), 0), Segment((), None)))


def run_tuning_job(text: str, device_id: DeviceId, options: RankOptions) -> int:
    """The process of one device. `text` is its TuningJob; what fails is told as {"error": sentence}."""
    from tplaunch.worker.vulkan.device import VulkanDevice
    from tplaunch.worker.vulkan.measuring.tuning import chosen

    fields = json.loads(text)
    matrices = tuple(map(tuple, fields["matrices"]))
    job = TuningJob(fields["kv_type"], fields["activations"], matrices, tuple(fields["attentions"]))
    try:
        limits = Limits(context_length=1, num_blocks=1, kv_type=job.kv_type, activations=job.activations)
        device = VulkanDevice(device_id, options, limits)
        try:
            device.prove([job.program()], seconds=float("inf"))
            measurements = device.tune(job.program(), seconds=float("inf"), anew=True)
        finally:
            device.close()
    except DeviceError as error:
        print(json.dumps({"error": str(error)}))
        return 0
    found = {
        "device": device.name,
        "driver": device.info.driver,
        "file": str(measurements.path) if measurements.is_kept else None,
        "measurements": [
            {"name": name, "seconds": numbers, "chosen": chosen(name, numbers, device.info.features)}
            for name, numbers in sorted(measurements.new.items())
        ],
    }
    print(json.dumps(found))
    return 0
