"""The first ten minutes on a card: whether it computes right, and how fast. Needs neither network nor model.

python examples/first_ten_minutes.py --devices 0

Runs `tplaunch devices`, `tplaunch check`, and `tplaunch tune` and `tplaunch bench` on well-known shapes with
made-up weights, the most telling ones first, each within a time of its own. What they say is put into a
folder as JSON, with a report for people beside it; of a command whose time was up, what it had by then. What
does not fit the device's memory, or what it can't do, is a line there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tplaunch.launcher.checking.figure_report import value_text

GRACE_SECONDS = 10.0  # between asking a command to end and killing it
TOTAL_SECONDS = 600.0
LARGE, EXPERTS, TINY = "llama-3.1-8b", "qwen3-30b-a3b", "llama-160m"


@dataclass(frozen=True)
class Step:
    """A command, its words after `tplaunch`, and how long it may take."""

    name: str
    words: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Done:
    """A step that has run: its output, and a sentence that says why there is none, or not all."""

    step: Step
    seconds: float
    found: Any = None
    problem: str = ""


def steps(devices: str, tiny: bool) -> list[Step]:
    """All of them, in the order of what they tell."""
    large, experts = (TINY, TINY) if tiny else (LARGE, EXPERTS)
    tests = ("--prefill=32", "--decode=4", "--at-context=0,64", "--repeat=1") if tiny else (
        "--prefill=512", "--decode=64", "--at-context=0,4096", "--repeat=2"
    )  # fmt: skip

    def bench(shape: str, weights: str, ranks: int, *others: str, seconds: float = 60.0) -> Step:
        name = "-".join(
            ("bench", shape, weights, f"{ranks}-ranks" if ranks > 1 else "1-rank", *map(_plain, others))
        )
        model = (f"--shape={shape}", f"--type={weights}", f"--ranks={ranks}", f"--devices={devices}")
        # Its default is what the device itself measures as faster, and that is what is to be seen here.
        floats = () if any("--activations" in option for option in others) else ("--activations=f32",)
        return Step(name, ("bench", *model, *tests, *floats, *others, "--ledger", "--json"), seconds)

    def tune(shape: str, weights: str) -> Step:
        """Else a bench may go by what a first start had no time to measure."""
        model = (f"--shape={shape}", f"--type={weights}", f"--devices={devices}")
        return Step(f"tune-{shape}-{weights}", ("tune", *model, "--json"), 45.0)

    checked = ("check", f"--devices={devices}", "--json")
    found = [
        Step("devices", ("devices", "--json"), 20.0),
        Step("check-speeds", (*checked, "--speeds"), 150.0),
        Step("check-kernels", (*checked, "--quick"), 90.0),
        tune(large, "q4_k"),
        tune(large, "q8_0"),
        tune(experts, "q4_k"),
        bench(large, "q4_k", 1),
        bench(large, "q8_0", 1),
        bench(large, "q4_k", 2),
        bench(large, "q4_k", 1, "--activations=f16"),
        bench(large, "q4_k", 1, "--activations=q8"),
        bench(experts, "q4_k", 1, seconds=90.0),
        bench(large, "q8_0", 2),
        bench(large, "q4_k", 2, "--staging"),
        bench(large, "q4_k", 2, "--submit-then-wait"),
        bench(large, "q8_0", 1, "--activations=f16"),
        bench(large, "q8_0", 1, "--activations=q8"),
        bench(experts, "q4_k", 2, seconds=90.0),
    ]
    return list({step.name: step for step in found}.values())


def _plain(option: str) -> str:
    return option.removeprefix("--").replace("=", "-")


def run(step: Step, seconds: float) -> Done:
    """Runs a step for so long at most; with what it has started it is gone afterwards.

    One that is ended says what it has found so far, if it can.
    """
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "tplaunch", *step.words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        late = ""
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            late = f"not done after {seconds:.0f} s"
            output, errors = _ended(process)
        except BaseException:
            _ended(process)
            raise
    taken, said = time.monotonic() - started, _last_line(errors)
    if late:
        problem = f"{late}: {said}" if said else late
    else:
        problem = (said or f"ended with {process.returncode}") if process.returncode else ""
    try:
        return Done(step, taken, json.loads(output), problem)
    except ValueError:
        return Done(step, taken, problem=problem or f"ended with {process.returncode} and said nothing")


def _ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a command and all that it has started; returns what it has said: the output, and the errors.

    The command alone gets to end in order, and with it what it has started.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=GRACE_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("tplaunch: ") if lines else ""


def lines_of(done: Done) -> Iterator[str]:
    """Yields what a report says of a step."""
    yield f"\n{done.step.name} ({done.seconds:.0f} s): tplaunch {' '.join(done.step.words)}"
    if done.problem:
        yield f"   {done.problem}"
    if done.found is None:
        return
    if done.step.name == "devices":
        for device in done.found["devices"]:
            memory = f"{device['memory_bytes'] / 2**30:.1f} GiB"
            yield f"   {device['index']}  {device['name']}, {device['driver']}, {memory}"
    elif done.step.words[0] == "tune":
        for device in done.found["devices"]:
            rate = f"{device['weights_per_second'] / 1e9:.3g} G weights/s"
            yield f"   {device['device']}: {len(device['measurements'])} measurements, {rate}"
    elif done.step.words[0] == "check":
        for device in done.found["devices"]:
            yield from _checked(device)
        for pair in done.found["pairs"]:
            yield f"   devices {' and '.join(map(str, pair['indices']))}"
            yield from _figures(pair)
    else:
        yield from _benched(done.found["results"])


def _checked(device: dict[str, Any]) -> Iterator[str]:
    kernels = device["kernels"]
    right = sum(kernel["right"] for kernel in kernels)
    counted = f": {right} of {len(kernels)} kernels are right" if kernels else ""
    yield f"   {device['device']}, {device['driver']}{counted}"
    if device["error"]:
        yield f"   {device['error']}"
    yield from (f"   wrong: {kernel['kernel']}" for kernel in device["kernels"] if not kernel["right"])
    if "speeds" in device:
        yield from _figures(device["speeds"])


def _figures(speeds: dict[str, Any]) -> Iterator[str]:
    for figure in speeds["figures"]:
        value = "-" if figure["value"] is None else value_text(figure["value"], figure["unit"])
        share = "" if figure["share"] is None else f"{figure['share']:.0%} of {figure['share_of']}"
        yield f"   {figure['what']:30} {figure['of']:28} {value:>14}  {share}".rstrip()
        if figure["problem"]:
            yield f"      wrong: {figure['problem']}"
    yield from (f"   note: {remark}" for remark in speeds["remarks"])


def _benched(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    for result in results:
        line = f"   {result['test']:12} {result['median_tokens_per_second']:10.2f} tokens/s"
        reached = [each["reached"] for each in result["rooflines"] if each["reached"] is not None]
        yield line + (f", {max(reached):.0%} of the copy bandwidth" if reached else "")


def measure(wanted: Sequence[Step], folder: Path, report: TextIO, total_seconds: float) -> None:
    """Runs the steps one after another, and writes down each as soon as it is done."""
    deadline = time.monotonic() + total_seconds
    summary = []
    for number, step in enumerate(wanted):
        left = deadline - time.monotonic() - GRACE_SECONDS
        print(f"{step.name}, at most {min(step.seconds, max(0.0, left)):.0f} s", file=sys.stderr)
        done = (
            run(step, min(step.seconds, left))
            if left > 0
            else Done(step, 0, problem="no time was left for it")
        )
        if done.found is not None:
            path = folder / f"{number:02}-{step.name}.json"
            path.write_text(json.dumps(done.found, indent=1) + "\n")
        summary.append(
            {"step": step.name, "words": step.words, "seconds": done.seconds, "problem": done.problem}
        )
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        for line in lines_of(done):
            print(line, file=report, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--devices", default="0", metavar="LIST", help="as tplaunch bench has it (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("first-ten-minutes"),
        help="for results, a new one (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=TOTAL_SECONDS, help="for all of it (default: %(default)s)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a small shape in place of large ones, to try the script"
    )
    parser.add_argument("--only", metavar="WORDS", default="", help="steps whose names hold one of these")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    options = parser.parse_args()
    words = options.only.split(",")
    found = steps(options.devices, options.tiny)
    wanted = [step for step in found if any(word in step.name for word in words)]
    if options.dry_run:
        for step in wanted:
            print(f"{step.name}, at most {step.seconds:.0f} s: tplaunch {' '.join(step.words)}")
        return 0
    options.folder.mkdir(parents=True)
    path = options.folder / "report.txt"
    with path.open("w") as report:
        print(f"{platform.platform()}, Python {platform.python_version()}", file=report)
        measure(wanted, options.folder, report, options.seconds)
    print(path.read_text())
    print(f"all of it is in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
