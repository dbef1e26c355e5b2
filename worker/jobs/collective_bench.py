"""Times a collective as one of its ranks, for `tplaunch bench-collectives`.

One call is what happens between two segments of a step: this rank's values go in, the sum of all comes out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tplaunch import collectives
from tplaunch.collectives.arena import rank_slice
from tplaunch.collectives.wire_types import EXACT
from tplaunch.worker.jobs.messages import CollectiveJob, Failed, Meeting, StillThere, Timings
from tplaunch.worker.jobs.pipe import JobPipe

Floats = npt.NDArray[np.float32]
WARM_UP_CALLS = 5
SIGN_SECONDS = 1.0  # between two signs of life
TWO_PHASE = " two-phase"
ROUNDING = 0.01  # of a one, at most, by the wire's type


class Summing(Protocol):
    """An all-reduce of any kind."""

    endpoint: str
    speaks: bool  # whether its standard output is its own

    def connect(self, endpoints: Sequence[str]) -> None:
        """Reaches all ranks."""

    def all_reduce(self, values: Floats, total: Floats) -> None:
        """Makes `total` the sum of all ranks' values."""

    def close(self) -> None:
        """Lets go of everything."""


class Ours:
    """One of collectives.KINDS, with the addition that a kernel would do."""

    speaks = True

    def __init__(self, job: CollectiveJob, rank: int) -> None:
        self._collective = collectives.create(
            job.kind.removesuffix(TWO_PHASE),
            rank=rank,
            num_ranks=job.num_ranks,
            slot_bytes=max(job.sizes),
            token=job.token,
            timeout_seconds=job.timeout_seconds,
            folder=Path(job.folder),
            wire=job.wire,
            address=job.address or None,
        )
        self.endpoint = self._collective.endpoint
        self._sequence, self._parity = 0, 0

    def connect(self, endpoints: Sequence[str]) -> None:
        self._collective.connect(endpoints)
        self._partials = [self._collective.partials(parity) for parity in (0, 1)]
        self._own = [self._collective.own(parity) for parity in (0, 1)]

    def all_reduce(self, values: Floats, total: Floats) -> None:
        _add_up(self._exchange(values), total)

    def _exchange(self, values: Floats, summed: bool = False) -> Floats:
        """Returns the numbers that every rank has written [num_partials, count].

        summed: only the first of them counts, which is the sum.
        """
        self._sequence += 1
        self._parity ^= 1
        partials = self._partials[self._parity][:, : values.size]
        self._own[self._parity][: values.size] = values
        self._collective.all_reduce(self._sequence, self._parity, values.size, summed=summed)
        return partials

    def close(self) -> None:
        self._partials.clear()
        self._own.clear()
        self._collective.close()


class OursInTwoPhases(Ours):
    """Every rank sums its slice, and then reads all of them; between hosts around a ring."""

    def all_reduce(self, values: Floats, total: Floats) -> None:
        if self._collective.can_sum:
            total[:] = self._exchange(values, summed=True)[0]
            return
        partials = self._exchange(values)
        own = rank_slice(self._collective.rank, self._collective.num_ranks, values.size)
        _add_up(partials[:, own], partials[0, own])
        self._sequence += 1
        self._collective.all_gather(self._sequence)
        total[:] = partials[0]


def _add_up(partials: Floats, total: Floats) -> None:
    """In rank order. `total` may be the first of the partials."""
    if len(partials) == 1:
        total[:] = partials[0]
        return
    np.add(partials[0], partials[1], out=total)
    for partial in partials[2:]:
        total += partial


class Gloo:
    """PyTorch's collective for CPUs."""

    endpoint, speaks = "", True

    def __init__(self, job: CollectiveJob, rank: int) -> None:
        self._job, self._rank = job, rank

    def connect(self, endpoints: Sequence[str]) -> None:
        import torch.distributed

        self._torch: Any = torch
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{self._job.folder}/rendezvous",
            rank=self._rank,
            world_size=self._job.num_ranks,
        )

    def all_reduce(self, values: Floats, total: Floats) -> None:
        total[:] = values
        self._torch.distributed.all_reduce(self._torch.from_numpy(total))

    def close(self) -> None:
        self._torch.distributed.destroy_process_group()


class OpenMpi:
    """MPI's, in a process that mpirun has started."""

    endpoint = ""

    def __init__(self, job: CollectiveJob) -> None:
        from mpi4py import MPI

        self.communicator: Any = MPI.COMM_WORLD
        assert self.communicator.size == job.num_ranks, f"{self.communicator.size} MPI ranks"
        self.speaks: bool = self.communicator.rank == 0

    def connect(self, endpoints: Sequence[str]) -> None:
        self.communicator.Barrier()

    def all_reduce(self, values: Floats, total: Floats) -> None:
        self.communicator.Allreduce(values, total)

    def close(self) -> None:
        self.communicator.Barrier()


def bench_collective(job: CollectiveJob, rank: int, pipe: JobPipe) -> int:
    """Runs one rank of the job; returns the exit code. Raises wire.WireError."""
    if job.kind == "openmpi":
        return _bench_mpi(job, pipe)
    ours = OursInTwoPhases if job.kind.endswith(TWO_PHASE) else Ours
    try:
        summing: Summing = Gloo(job, rank) if job.kind == "gloo" else ours(job, rank)
        pipe.send(Meeting((summing.endpoint,)))
        seconds = _measure(summing, pipe.expect(Meeting).endpoints, job, pipe)
        pipe.send(Timings((tuple(map(tuple, seconds)),)))
    except collectives.CollectiveError as error:
        pipe.send(Failed(str(error)))
        return 1
    return 0


def _bench_mpi(job: CollectiveJob, pipe: JobPipe) -> int:
    """Runs a rank that mpirun has started; rank 0 tells the seconds of all."""
    mpi = OpenMpi(job)
    seconds = np.concatenate([np.array(each) for each in _measure(mpi, (), job, pipe)])
    gathered = np.zeros((job.num_ranks, seconds.size)) if mpi.speaks else None
    mpi.communicator.Gather(seconds, gathered)
    if gathered is not None:
        cuts = np.cumsum(job.num_calls)[:-1]
        pipe.send(
            Timings(tuple(tuple(tuple(each.tolist()) for each in np.split(rank, cuts)) for rank in gathered))
        )
    return 0


def _measure(
    summing: Summing, endpoints: Sequence[str], job: CollectiveJob, pipe: JobPipe
) -> list[list[float]]:
    """Returns the seconds of every call, by size."""
    summing.connect(endpoints)
    try:
        return [_time(summing, *each, job, pipe) for each in zip(job.sizes, job.num_calls, strict=True)]
    finally:
        summing.close()


def _time(summing: Summing, size: int, num_calls: int, job: CollectiveJob, pipe: JobPipe) -> list[float]:
    values, total = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
    weights = np.ones(job.work_bytes // 4, np.float32)
    seconds: list[float] = []
    said = time.perf_counter()
    for _ in range(WARM_UP_CALLS + num_calls):
        weights.sum()
        started = time.perf_counter()
        summing.all_reduce(values, total)
        ended = time.perf_counter()
        seconds.append(ended - started)
        if ended - said > SIGN_SECONDS and summing.speaks:
            pipe.send(StillThere())
            said = ended
    rounding = 0.0 if job.wire == EXACT.name else ROUNDING * job.num_ranks
    if not (abs(total - job.num_ranks) <= rounding).all():
        raise collectives.CollectiveError(f"{job.kind} gave {total.min()} to {total.max()} as a sum of ones")
    return seconds[WARM_UP_CALLS:]
