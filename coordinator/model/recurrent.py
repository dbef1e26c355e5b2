"""Layers with a recurrent state, as frozen data: what a sequence has read is kept in a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("convolution", "delta", "scan")


@dataclass(frozen=True)
class RecurrentSpec:
    """The recurrent part of one layer, of one of three kinds.

    convolution: a gated short convolution (https://arxiv.org/abs/2511.23404); its heads are channels.
    delta: the gated delta rule (https://arxiv.org/abs/2412.06464). scan: Mamba-2's state space model
    (https://arxiv.org/abs/2405.21060). Both of these first convolve, and then have per head a state
    [state_length, head_length], which each row decays, adds its key times its value to, and multiplies by
    its query. Several heads share the query and the key of a group.
    """

    kind: str
    kernel: int  # rows that a convolution reads: a row's own and those before it
    num_heads: int
    num_groups: int = 0
    head_length: int = 1  # elements of a head's value
    state_length: int = 0  # of its key
    tiled: bool = False  # True: head i is of group i % num_groups; False: neighbours share one

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"a recurrent layer of the kind {self.kind!r}"
        assert self.kernel >= 2 and self.num_heads >= 1 and self.head_length >= 1, f"{self}"
        if self.has_heads:
            assert self.num_groups >= 1 and self.state_length >= 1, f"{self}"
            assert self.num_heads % self.num_groups == 0, f"{self}"

    @property
    def has_heads(self) -> bool:
        """Tells whether heads have a state of their own, besides the convolution's."""
        return self.kind != "convolution"

    @property
    def inner_length(self) -> int:
        """Elements of all heads' values."""
        return self.num_heads * self.head_length

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // max(1, self.num_groups)

    @property
    def normalises_groups(self) -> bool:
        """Tells whether the output is normalised by groups of heads, and not head by head."""
        return self.kind == "scan"
