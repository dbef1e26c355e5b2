"""The names of the buffers that recurrent layers work in, and the lengths of their rows."""

from __future__ import annotations

from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.split.plan import LayerShare


def convolution_state(layer: int) -> str:
    """The buffer of the last inputs of a layer's convolution."""
    return f"state.{layer}.convolution"


def heads_state(layer: int) -> str:
    """The buffer of the states of a layer's heads."""
    return f"state.{layer}.heads"


def convolved_length(recurrent: RecurrentSpec, share: LayerShare) -> int:
    """Channels of a rank's convolution."""
    keys = 2 * len(share.groups) * recurrent.state_length
    return keys + len(share.recurrent) * recurrent.head_length


def projected_length(recurrent: RecurrentSpec, share: LayerShare) -> int:
    """Elements of a row of what a rank's input projection gives."""
    held = len(share.recurrent)
    if not recurrent.has_heads:
        return 3 * held
    num_scalars = 2 if recurrent.kind == "delta" else 1
    return convolved_length(recurrent, share) + held * (recurrent.head_length + num_scalars)
