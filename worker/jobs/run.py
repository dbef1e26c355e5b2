"""Runs the one job of a process that the launcher has started for it."""

from __future__ import annotations

from tplaunch.worker.device import DeviceError, DeviceId
from tplaunch.worker.jobs.figures import PairJob, PartJob
from tplaunch.worker.jobs.messages import CheckJob, CollectiveJob, Failed, SpeedJob, StepsJob, TuningJob
from tplaunch.worker.jobs.pipe import JobPipe


def run_job(pipe: JobPipe, device_id: DeviceId, rank: int) -> int:
    """Takes the job from the pipe and answers there; returns the exit code. Raises wire.WireError.

    rank: of a collective. Each job's module is imported only when it is wanted: NumPy needs no Vulkan loader.
    """
    job = pipe.receive()
    if isinstance(job, CollectiveJob):
        from tplaunch.worker.jobs.collective_bench import bench_collective

        return bench_collective(job, rank, pipe)
    try:
        if isinstance(job, SpeedJob):
            from tplaunch.worker.jobs.speed import device_speed

            pipe.send(device_speed(job, device_id))
        elif isinstance(job, TuningJob):
            from tplaunch.worker.jobs.tuning import tune_device

            pipe.send(tune_device(job, device_id))
        elif isinstance(job, CheckJob):
            from tplaunch.worker.jobs.check import check_kernels

            check_kernels(job, device_id, pipe.send)
        elif isinstance(job, PartJob):
            from tplaunch.worker.jobs.parts import measure_part

            measure_part(job, device_id, pipe.send)
        elif isinstance(job, PairJob):
            from tplaunch.worker.jobs.pair import measure_pair

            measure_pair(job, device_id, rank, pipe)
        elif isinstance(job, StepsJob):
            from tplaunch.worker.jobs.steps import time_steps

            time_steps(job, device_id, pipe)
        else:
            raise AssertionError(f"{type(job).__name__} is no job")
    except DeviceError as error:
        pipe.send(Failed(str(error)))
    return 0
