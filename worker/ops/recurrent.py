"""The operations of layers with a recurrent state. worker/numpy/recurrent.py defines what each computes.

A row of the buffer "projected" is the output of a layer's input projection: queries and keys of all groups,
values of all heads, their gates, a time step per head, and for the delta rule a beta per head; for a short
convolution the gate before it, the gate behind it, and the values. A state begins as zeros for a row at
position 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

MAX_KERNEL = 8  # rows that the kernel of a convolution may read: shaders/convolution.slang
SQUARE_SUMS = 8  # elements of a row that SquareSums writes: groups are fewer than ranks then
STATE_STEP = 16  # a key's elements come in multiples of it: shaders/recurrence.slang


@dataclass(frozen=True)
class Convolution:
    """A causal convolution of each channel over the rows of its sequence, with the rows before the step.

    output = silu(convolution of projected's first channels + bias). Gated: output = behind * convolution of
    before * values, these three side by side in projected. The state [slots, kernel - 1, channels] keeps the
    last inputs.
    """

    weight: str  # [channels, kernel], oldest first
    weight_stride: int  # elements
    bias: str | None
    state: str
    output: str
    output_offset: int
    channels: int
    kernel: int
    gated: bool

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("projected", self.state))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output, self.state))


@dataclass(frozen=True)
class UnitNorm:
    """Divides a row's first `count` vectors of convolved by sqrt(sum of squares + epsilon): to length 1."""

    count: int
    length: int
    epsilon: float

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("convolved",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("convolved",))


@dataclass(frozen=True)
class RecurrentHeads:
    """The heads of a layer that a rank computes, and the place of their groups' queries and keys.

    Head i of the layer is of the group i // divisor % modulus.
    """

    count: int
    first: int  # of the layer's
    divisor: int
    modulus: int
    num_groups: int  # that the rank holds
    first_group: int
    head_length: int
    state_length: int


@dataclass(frozen=True)
class Recurrence:
    """Updates each head's state by the rows of its sequence, and writes recurrence_output by its queries.

    With queries, keys and values in convolved, per head and row: dt = softplus(time step + bias),
    decay = exp(decay_rate * dt), state = decay * state + key x addition, output = query of the state. For the
    delta rule the addition is sigmoid(beta) * (value - key of decay * state), and queries are scaled by
    state_length ** -0.5; otherwise it is dt * value, and skip * value is added to the output. The state is
    [slots, heads, state_length, head_length].
    """

    delta: bool
    heads: RecurrentHeads
    decay_rate: str  # of all heads of the layer, as is skip; negative
    time_bias: str  # of all heads of the layer
    skip: str | None
    state: str
    time_offset: int  # where time steps begin in projected; betas follow

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("projected", "convolved", self.state))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("recurrence_output", self.state))


@dataclass(frozen=True)
class SquareSums:
    """partials[row, group] = the sum of squares of recurrence_output * silu(gate), of a rank's heads in it.

    This is for groups that several ranks share: GatedNorm divides by the all-reduced sums.
    """

    num_heads: int
    first_head: int  # of the layer's
    head_length: int
    heads_per_group: int
    num_groups: int  # of the layer
    gate_offset: int  # in projected
    parity: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("recurrence_output", "projected"))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


@dataclass(frozen=True)
class GatedNorm:
    """Normalises recurrence_output by root mean square, times weight and silu(gate), into gated.

    Each vector is normalised by itself.

    gate_first: the gate is applied before the norm and counts in it. With a parity, the squares were summed
    by SquareSums, and vectors are parts of groups; otherwise each vector is a group.
    """

    weight: str
    weight_stride: int  # from one group's weight to the next's; 0: all have the same
    num_vectors: int
    first_vector: int  # of the layer's
    length: int
    vectors_per_group: int
    epsilon: float
    gate_first: bool
    gate_offset: int  # in projected
    output_offset: int
    parity: int | None = None

    @property
    def first_group(self) -> int:
        """Whose weight comes first."""
        return self.first_vector // self.vectors_per_group

    @property
    def reads(self) -> frozenset[str]:
        names = ("recurrence_output", "projected")
        return frozenset(names if self.parity is None else (*names, "partials"))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("gated",))


RecurrentOp = Union[Convolution, UnitNorm, Recurrence, SquareSums, GatedNorm]  # noqa: UP007
