"""`python -m tplaunch.worker`: starts one rank, or lists the Vulkan devices. The launcher calls it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys

from tplaunch.collectives import CollectiveError
from tplaunch.coordinator.messages import Failed
from tplaunch.coordinator.options import RankOptions
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import DeviceError, DeviceId, NotInstalledError
from tplaunch.worker.faults import fault_sentence
from tplaunch.worker.loop import serve
from tplaunch.worker.process import end_with_parent, keep_standard_output, pin

EXPECTED_ERRORS = (CollectiveError, DeviceError, ValueError)  # their message says what to do
log = logging.getLogger("worker")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.parent:
        end_with_parent(arguments.parent)
    if not arguments.connect:
        keep_standard_output()  # a job's answer
    if arguments.list_devices:
        return _list_devices()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    if arguments.cores:
        pin([int(core) for core in arguments.cores.split(",")])
    if arguments.tune:
        from tplaunch.worker.jobs.tuning import run_tuning_job

        return run_tuning_job(arguments.tune, _device_id(arguments), _options(arguments))
    if arguments.check:
        from tplaunch.worker.jobs.check import run_check_job

        return run_check_job(arguments.check, _device_id(arguments), _options(arguments))
    if arguments.measure_speed:
        from tplaunch.worker.jobs.speed import run_speed_job

        return run_speed_job(arguments.measure_speed, _device_id(arguments), _options(arguments))
    if arguments.bench_collective:
        from tplaunch.worker.jobs.collective_bench import bench_collective

        return bench_collective(arguments.bench_collective)
    control = ControlSocket(arguments.connect, arguments.rank)
    try:
        serve(control, arguments.rank, _device_id(arguments))
    except Exception as error:
        log.exception("rank %d failed", arguments.rank)
        control.send(Failed(_sentence(error), getattr(error, "rank", None)))
        return 1
    finally:
        control.close()
    return 0


def _device_id(arguments: argparse.Namespace) -> DeviceId:
    return DeviceId(None if arguments.device == "cpu" else int(arguments.device), arguments.uuid)


def _options(arguments: argparse.Namespace) -> RankOptions:
    without = tuple(filter(None, arguments.without.split(",")))
    return RankOptions(validate=arguments.validate, without=without)


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
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to end with")
    parser.add_argument("--device", default="cpu", help="index of the Vulkan device, or cpu for NumPy")
    parser.add_argument(
        "--uuid", default="", help="the device's UUID; another device at the index is refused"
    )
    parser.add_argument("--cores", default="", help="CPU cores to run on, as 0,1,2")
    parser.add_argument("--validate", action="store_true", help="with the Khronos validation layer")
    parser.add_argument("--without", default="", metavar="FEATURES", help="as if the device lacked them")
    parser.add_argument("--bench-collective", metavar="JOB", help=argparse.SUPPRESS)
    parser.add_argument("--tune", metavar="JOB", help=argparse.SUPPRESS)
    parser.add_argument("--check", metavar="JOB", help=argparse.SUPPRESS)
    parser.add_argument("--measure-speed", metavar="JOB", help=argparse.SUPPRESS)
    return parser


def _list_devices() -> int:
    from tplaunch.worker.vulkan.listing import list_devices

    try:
        devices = list_devices()
    except DeviceError as error:
        missing = error.part if isinstance(error, NotInstalledError) else ""
        print(json.dumps({"error": str(error), "devices": [], "missing": missing}))
        return 0
    described = [
        {
            **dataclasses.asdict(device),
            "external_host_memory": device.host_memory_import,
            "kind": device.kind,
        }
        for device in devices
    ]
    print(json.dumps({"error": "", "devices": described}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
