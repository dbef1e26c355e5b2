"""The options by which Ray finds and starts the hosts of a run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from tplaunch.coordinator.options import OptionError, check_choices, declared_options, option
from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.config import HOSTS_GROUP
from tplaunch.launcher.declared import add_declared
from tplaunch.launcher.errors import UsageError

PROCESSES, RAY = "processes", "ray"


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Who starts the ranks that are not on this machine. Raises UsageError."""

    engine: str = option(
        "--engine",
        default=PROCESSES,
        group=HOSTS_GROUP,
        choices=(PROCESSES, RAY),
        help="who starts other hosts' ranks: you, by `tplaunch join`, or the Ray cluster that this machine is"
        " in, on nodes with the resource vulkan_device, or with devices where no node declares any"
        " (default: %(default)s)",
    )
    num_ranks: int | None = option(
        "--num-ranks",
        default=None,
        group=HOSTS_GROUP,
        number=int,
        metavar="N",
        help="of --engine ray: ranks on all nodes together, this one's first (default: one for each device)",
    )

    def __post_init__(self) -> None:
        try:
            check_choices(self)
        except OptionError as error:
            raise UsageError(str(error)) from None
        if self.num_ranks is not None and self.engine != RAY:
            raise UsageError("--num-ranks goes with --engine ray; --devices says how many ranks others have")
        if self.num_ranks is not None and not 1 <= self.num_ranks <= MAX_RANKS:
            raise UsageError(f"--num-ranks {self.num_ranks}: 1 to {MAX_RANKS} are possible")


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of RayOptions, beside those of hosts that the parser has."""
    group = next((one for one in parser._action_groups if one.title == HOSTS_GROUP), parser)
    add_declared(group, RayOptions, declared_options(RayOptions))
