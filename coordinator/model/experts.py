"""The experts of a layer: a frozen part of the specs of spec.py."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EXPERTS, MAX_USED_EXPERTS = 512, 64  # of a layer, and of those for a row
MAX_GROUPS = 32
GATINGS = ("softmax", "sigmoid", "softmax_chosen")  # the last: a softmax over the chosen experts alone


@dataclass(frozen=True)
class ExpertsSpec:
    """Feed-forward networks of which a router chooses some for every row (https://arxiv.org/abs/1701.06538).

    The chosen ones' outputs are added up, each times its weight.
    """

    count: int
    used: int  # for a row
    length: int  # columns between an expert's up and down
    activation: str = "silu"
    gating: str = "softmax"  # how the router's logits become weights: one of GATINGS
    normalised: bool = False  # whether the weights of a row are divided by their sum
    scale: float = 1.0  # of the weights
    num_groups: int = 1  # of neighbouring experts: a row's are from its `used_groups` best groups
    used_groups: int = 1
    weighs_input: bool = False  # whether the weight is of an expert's input instead of its output

    def __post_init__(self) -> None:
        problem = expert_problem(self.count, self.used, self.num_groups, self.used_groups)
        assert not problem, problem
        assert self.gating in GATINGS, f"the gating {self.gating!r}"
        assert self.length > 0 and 0 < self.scale < 1e12, f"{self.length} columns, scaled by {self.scale}"


def expert_problem(count: int, used: int, num_groups: int, used_groups: int) -> str:
    """Why rows can't be routed so, as a sentence; empty where they can."""
    if not (0 < count <= MAX_EXPERTS and 0 < used <= MAX_USED_EXPERTS):
        return (
            f"the model uses {used} of {count} experts;"
            f" from 1 to {MAX_USED_EXPERTS} of up to {MAX_EXPERTS} are supported"
        )
    if not 0 < used_groups <= num_groups <= MAX_GROUPS or count % num_groups:
        return (
            f"the model uses {used_groups} of {num_groups} groups of {count} experts;"
            f" up to {MAX_GROUPS} groups of equally many are supported"
        )
    if used > count // num_groups * used_groups:
        return f"a row can't go to {used} of {count} experts in {used_groups} of {num_groups} groups"
    return ""
