"""The two ends of a rank's stage in a step: what it gets from the stage before, and what it leaves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tplaunch.collectives import Handover
from tplaunch.coordinator.likeliest import num_groups
from tplaunch.coordinator.messages import Load, Step
from tplaunch.coordinator.split.plan import padded
from tplaunch.coordinator.split.stages import most_in_flight
from tplaunch.worker.device import Device
from tplaunch.worker.ops.logits import LOGIT_GROUPS

Floats = npt.NDArray[np.float32]


def open_handover(load: Load, folder: Path, address: str | None) -> Handover:
    """Returns a rank's way to and from the stages around its own; see Handover."""
    return Handover(
        rank=load.share.rank,
        hosts=load.placement.hosts,
        stages=load.placement.stages,
        token=load.token,
        timeout_seconds=load.options.timeout_seconds,
        folder=folder,
        address=address,
    )


class StageEnds:
    """A stage's first input and last output on a device, and what it needs to keep of its logits."""

    def __init__(self, device: Device, handover: Handover, load: Load) -> None:
        self._handover, self._row_length = handover, padded(load.spec.embedding_length)
        self.is_last, self._vocabulary = load.share.ends(load.spec), load.share.vocabulary
        self._embedding = device.view("embedding").view(np.float32)
        self._residual = None if self.is_last else device.view("residual").view(np.float32)
        self._logits = device.view("logits").view(np.float32)
        self._groups = device.view(LOGIT_GROUPS).view(np.float32) if device.groups_logits else None
        self._num_kept = most_in_flight(load.placement.num_stages)
        self._kept: dict[int, Floats] = {}  # of the last steps, by number

    def num_logit_rows(self, step: Step) -> int:
        """The rows that get logits in this stage."""
        return step.logit_rows.size if self.is_last else 0

    def begin(self, step: Step) -> bool:
        """Waits for the stage before this one, once the step is written; tells whether there is one."""
        if self._handover.receives:
            self._handover.receive(self._rows(self._embedding, step))
        return self._handover.receives

    def finish(self, step: Step) -> bool:
        """Hands over what the step has left, and tells whether this rank is the one to do so."""
        if self._handover.sends and self._residual is not None:
            self._handover.send(self._rows(self._residual, step))
            return True
        return False

    def _rows(self, buffer: Floats, step: Step) -> Floats:
        return buffer[: step.token_ids.size * self._row_length]

    def logits(self, step: Step) -> Floats:
        """This rank's slice of the step's logits [logit rows, slice].

        It is the device's own memory, which the next step overwrites, unless that may come before they are
        asked for.
        """
        shape = (self.num_logit_rows(step), len(self._vocabulary))
        logits = self._logits[: shape[0] * shape[1]].reshape(shape)
        if self._num_kept > 1:
            logits = logits.copy()
        self._kept[step.number] = logits
        self._kept.pop(step.number - self._num_kept, None)
        return logits

    def groups(self, step: Step) -> Floats | None:
        """The highest logits of groups, and these groups' sums [logit rows, 2, groups].

        None where the device does not find them.
        """
        if self._groups is None:
            return None
        shape = (self.num_logit_rows(step), 2, num_groups(len(self._vocabulary)))
        return self._groups[: math.prod(shape)].reshape(shape)

    def kept(self, number: int) -> Floats | None:
        """The logits of one of the last steps."""
        return self._kept.get(number)
