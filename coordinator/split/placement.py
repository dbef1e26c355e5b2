"""Says where every rank of a run stands: on which host, and in which stage of the model's layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = 0  # the host of the coordinator


@dataclass(frozen=True)
class Placement:
    """The host and the stage of each rank. Ranks of one stage are a group, which all-reduces among itself.

    Hosts are counted from 0, which is the coordinator's, in the order of their ranks; so ranks of one host
    are neighbours. Raises ValueError for any other order, and for a stage without ranks.
    """

    hosts: tuple[int, ...]  # by rank
    stages: tuple[int, ...]  # by rank

    def __post_init__(self) -> None:
        if not self.hosts or len(self.hosts) != len(self.stages):
            raise ValueError(f"{len(self.hosts)} hosts for {len(self.stages)} stages of ranks")
        if not _counts_up(self.hosts):
            raise ValueError(f"the ranks' hosts are {self.hosts}, where neighbours share one, counted from 0")
        if not _counts_up(sorted(self.stages)):
            raise ValueError(f"the ranks' stages are {self.stages}, where each from 0 on has a rank")

    @classmethod
    def single(cls, num_ranks: int) -> Placement:
        """Returns the placement of ranks on one host, in one stage."""
        return cls((HEAD,) * num_ranks, (0,) * num_ranks)

    @property
    def num_ranks(self) -> int:
        return len(self.hosts)

    @property
    def num_hosts(self) -> int:
        return self.hosts[-1] + 1

    @property
    def num_stages(self) -> int:
        return max(self.stages) + 1

    def ranks_of_stage(self, stage: int) -> tuple[int, ...]:
        """Returns the ranks of a stage, ascending."""
        return tuple(rank for rank, found in enumerate(self.stages) if found == stage)

    def ranks_of_host(self, host: int) -> tuple[int, ...]:
        """Returns the ranks of a host, ascending."""
        return tuple(rank for rank, found in enumerate(self.hosts) if found == host)

    def group(self, rank: int) -> tuple[int, ...]:
        """Returns the ranks that all-reduce with this one, itself among them, ascending."""
        return self.ranks_of_stage(self.stages[rank])

    def local_group(self, rank: int) -> tuple[int, ...]:
        """Returns those of the group that are on this rank's host; the first is the host's leader."""
        return tuple(peer for peer in self.group(rank) if self.hosts[peer] == self.hosts[rank])

    def leaders(self, rank: int) -> tuple[int, ...]:
        """Returns the first rank of each host that has a part of the group, in the order of the hosts."""
        group = self.group(rank)
        return tuple(next(found) for _, found in itertools.groupby(group, key=self.hosts.__getitem__))


def _counts_up(numbers: Sequence[int]) -> bool:
    """Tells whether numbers begin at 0, and each is as large as the one before or one larger."""
    return numbers[0] == 0 and all(
        later - earlier in (0, 1) for earlier, later in itertools.pairwise(numbers)
    )
