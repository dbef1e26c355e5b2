"""The family of queues that a device computes in, chosen among made-up ones."""

from __future__ import annotations

import pytest

from tplaunch.worker.vulkan.queues import QueueFamily, best_family

# As drivers list them: whether a family computes, whether it draws, and the bits of its clock.
RADV = ((True, True, 64), (True, False, 64), (False, False, 64))
NVIDIA = ((True, True, 64), (False, False, 64), (True, False, 64))
LAVAPIPE = ((True, True, 64),)
SERVER = ((False, False, 64), (True, False, 64))
CLOCKLESS = ((True, True, 36), (True, False, 0))
NO_CLOCKS = ((False, True, 0), (True, True, 0), (True, False, 0), (True, False, 0))
ONLY_DRAWS = ((False, True, 64),)


@pytest.mark.parametrize(
    ("listed", "best", "without"),
    [
        (RADV, 1, 0),
        (NVIDIA, 2, 0),
        (LAVAPIPE, 0, 0),
        (SERVER, 1, 1),
        (CLOCKLESS, 0, 0),
        (NO_CLOCKS, 2, 1),
        (ONLY_DRAWS, None, None),
        ((), None, None),
    ],
)
def test_a_queue_that_draws_nothing_is_taken(
    listed: tuple[tuple[bool, bool, int], ...], best: int | None, without: int | None
) -> None:
    """Unless the user does without; a clock counts for more."""
    families = [QueueFamily(index, *family) for index, family in enumerate(listed)]
    for may_only_compute, expected in ((True, best), (False, without)):
        found = best_family(families, may_only_compute)
        assert (found and found.index) == expected
