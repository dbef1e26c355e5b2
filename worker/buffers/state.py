"""The buffers of what recurrent layers keep of each sequence."""

from __future__ import annotations

from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError, RankShare
from tplaunch.worker.buffers.recurrent import convolution_state, convolved_length, heads_state
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.ops.recurrent import STATE_STEP

MAX_ITERATIONS = 65_000  # of one invocation: lavapipe 22.3 cuts it off after 65,535


def state_buffers(spec: ModelSpec, share: RankShare, limits: Limits) -> dict[str, Buffer]:
    """Returns the states by name. Raises PlanError where no state has a place, or steps are too long."""
    buffers = {}
    for index, layer, held in share.held(spec):
        recurrent = layer.recurrent
        if recurrent is None:
            continue
        if not limits.num_slots:
            raise PlanError(f"{spec.architecture} keeps a state of each sequence, but num_slots is 0")
        _check_rows(recurrent, limits.max_rows)
        channels = convolved_length(recurrent, held)
        inputs = limits.num_slots * (recurrent.kernel - 1) * channels
        buffers[convolution_state(index)] = Buffer(inputs * 4)
        if recurrent.has_heads:
            elements = limits.num_slots * len(held.recurrent) * recurrent.head_length * recurrent.state_length
            buffers[heads_state(index)] = Buffer(elements * 4)
    return buffers


def _check_rows(recurrent: RecurrentSpec, max_rows: int) -> None:
    """A kernel walks a sequence's rows, and for each of them twice its keys."""
    possible = MAX_ITERATIONS // (1 + 2 * -(-recurrent.state_length // STATE_STEP))
    if max_rows > possible:
        raise PlanError(
            f"steps of {max_rows} rows are too long for a recurrent layer;"
            f" lower --prefill-chunk to {possible}"
        )
