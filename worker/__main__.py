"""`python -m tplaunch.worker`: runs one rank, does one job, or lists the devices. The launcher calls it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from tplaunch.collectives import CollectiveError
from tplaunch.coordinator.direct_line import DirectLine
from tplaunch.coordinator.messages import Failed
from tplaunch.coordinator.wire import WireError
from tplaunch.worker.beating import OPTION
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.core_choice import pin_to_one
from tplaunch.worker.device import DeviceError, DeviceId, NotInstalledError
from tplaunch.worker.faults import fault_sentence
from tplaunch.worker.loop import serve
from tplaunch.worker.place import read_place
from tplaunch.worker.process import end_with_parent, keep_standard_output, pin, remove_with_parent

CPU, NUMPY = "cpu", "numpy"  # words for --device
EXPECTED_ERRORS = (CollectiveError, DeviceError, ValueError)  # their message says what to do
log = logging.getLogger("worker")


def main() -> int:
    arguments = _parser().parse_args()
    place = None if arguments.place is None else read_place(arguments.place)
    if place is not None:  # before anything else: the parent may have ended while this process was starting
        remove_with_parent(Path(place.folder))
    if arguments.parent:
        end_with_parent(arguments.parent)
    if arguments.list_devices:
        with keep_standard_output() as answers:
            answers.write(json.dumps(_listed_devices()).encode())
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    if arguments.cores:
        cores = [int(core) for core in arguments.cores.split(",")]
        (pin_to_one if arguments.one_core else pin)(cores)
    if not arguments.connect:
        return _run_job(arguments, keep_standard_output())
    line = None if arguments.line is None else DirectLine.inherited(arguments.line)
    control = ControlSocket(arguments.connect, arguments.rank, place, line)
    try:
        serve(control, arguments.rank, _device_id(arguments))
    except Exception as error:
        log.exception("rank %d failed", arguments.rank)
        with contextlib.suppress(OSError):  # it is gone, too
            control.send(Failed(_sentence(error), getattr(error, "rank", None)))
        return 1
    finally:
        control.close()
    return 0


def _device_id(arguments: argparse.Namespace) -> DeviceId:
    if arguments.device in (CPU, NUMPY):
        return DeviceId(None, num_threads=arguments.threads if arguments.device == CPU else 0)
    return DeviceId(int(arguments.device), arguments.uuid)


def _run_job(arguments: argparse.Namespace, answers: BinaryIO) -> int:
    from tplaunch.worker.jobs.messages import JOBS, Begin, Meeting
    from tplaunch.worker.jobs.pipe import JobPipe
    from tplaunch.worker.jobs.run import run_job

    source = 0 if arguments.job is None else os.open(arguments.job, os.O_RDONLY)
    try:
        pipe = JobPipe(source, answers, (*JOBS, Meeting, Begin))
        return run_job(pipe, _device_id(arguments), arguments.rank)
    except WireError as error:
        print(f"the job can't be read: {error}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    if isinstance(error, EXPECTED_ERRORS):
        return str(error)
    sentence = fault_sentence(error)
    if sentence is not None:
        return sentence
    return f"internal error, {type(error).__name__}: {error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tplaunch.worker", description=__doc__)
    parser.add_argument(
        "--list-devices", action="store_true", help="print the Vulkan devices as JSON and end"
    )
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--connect", metavar="ENDPOINT", help="the coordinator's ZeroMQ endpoint")
    parser.add_argument("--line", type=int, metavar="DESCRIPTOR", help="a direct line to the coordinator")
    parser.add_argument("--place", type=int, metavar="DESCRIPTOR", help="what is this host's own business")
    parser.add_argument(
        OPTION,
        metavar="DESCRIPTOR:SECONDS",
        help="a pipe to write to, so often, as a sign of life; minded before imports",
    )
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to end with")
    parser.add_argument(
        "--device",
        default=NUMPY,
        help="index of the Vulkan device, cpu for compiled kernels, or numpy (default: %(default)s)",
    )
    parser.add_argument(
        "--uuid", default="", help="the device's UUID; another device at the index is refused"
    )
    parser.add_argument("--cores", default="", help="CPU cores to run on, as 0,1,2")
    parser.add_argument("--one-core", action="store_true", help="run on one of them, a free one")
    parser.add_argument("--threads", type=int, default=1, help="how many run compiled kernels")
    parser.add_argument(
        "--job",
        metavar="FILE",
        help="the file that holds the job to do, where --connect is not given (default: standard input)",
    )
    return parser


def _listed_devices() -> dict[str, Any]:
    from tplaunch.worker.vulkan.listing import list_devices

    try:
        devices = list_devices()
    except DeviceError as error:
        missing = error.part if isinstance(error, NotInstalledError) else ""
        return {"error": str(error), "devices": [], "missing": missing}
    described = [
        {
            **dataclasses.asdict(device),
            "external_host_memory": device.host_memory_import,
            "kind": device.kind,
            "features": sorted(device.features),
        }
        for device in devices
    ]
    return {"error": "", "devices": described}


if __name__ == "__main__":
    sys.exit(main())
