"""Runs and `tplaunch check` tell of kernels that compute wrong numbers, or that end the driver."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.command_line import CommandLine, complaints
from tests.models import write_llama
from tests.patience import PATIENCE
from tests.wrong_kernels import package_with, wrong_kernel

RUN = ("--tokens", "1,2,3", "-n", "3", "--temperature", "0", "--json")
FIRST, OTHERS = (
    "matvec_f32_wide",
    ("matvec_f32", *(f"matvec_f32_1x{columns}{suffix}" for columns in (4, 2) for suffix in ("_wide", ""))),
)  # a family's variants in order of preference
# Appended to modules of a copy of the package. The driver "crashes" when it is to compile a kernel.
CRASH = """
import os, signal
_load = load_kernel
def load_kernel(name):
    if name == {kernel!r}:
        os.kill(os.getpid(), signal.{signal})
    return _load(name)
"""
FEW = """
_every_op = every_op
def every_op(*arguments):
    def is_chosen(one):
        kind, type_ = type(one.op).__name__, getattr(getattr(one.op, "matrix", None), "type", "F32")
        return kind in ("SumNorm", "UnitNorm") or (kind == "MatMul" and type_ == "F32" and one.num_rows == 1)
    return [one for one in _every_op(*arguments) if is_chosen(one)]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_llama(path)
    return path


@pytest.fixture
def with_kernels(tplaunch: CommandLine, tmp_path: Path) -> Any:
    """Makes the command line that of a package with other kernels, and with an empty cache."""

    def change(kernels: dict[str, bytes], **appended: str) -> CommandLine:
        folder = tmp_path / "package"
        tplaunch.program = (sys.executable, "-c", package_with(folder, kernels))
        for module, text in appended.items():
            with (folder / "tplaunch" / module.replace(".", "/")).with_suffix(".py").open("a") as file:
                file.write(text)
        shaders = tplaunch.environment["XDG_CACHE_HOME"]
        tplaunch.environment |= {
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "MESA_SHADER_CACHE_DIR": shaders,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return tplaunch

    return change


def lines_about(kernel: str, stderr: str) -> list[str]:
    return [line for line in complaints(stderr) if kernel in line]


def test_a_run_does_without_a_wrong_variant_and_says_so_once(
    tplaunch: CommandLine, with_kernels: Any, model: Path
) -> None:
    expected = json.loads(tplaunch("--devices", "0,0", *RUN, model, check=True).stdout)["tokens"]
    changed = with_kernels({FIRST: wrong_kernel(FIRST)})
    for _ in range(2):  # the second one knows it from the cache
        done = changed("--devices", "0,0", *RUN, model, check=True)
        assert json.loads(done.stdout)["tokens"] == expected
        (line,) = complaints(done.stderr)
        assert f"the kernel {FIRST} on llvmpipe" in line and "(driver llvmpipe Mesa " in line
        assert "is not used; matvec_f32 is right" in line


def test_a_run_without_a_right_kernel_ends(with_kernels: Any, model: Path) -> None:
    changed = with_kernels({name: wrong_kernel(name) for name in (FIRST, *OTHERS)})
    done = changed("--devices", "0,0", *RUN, model)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = complaints(done.stderr)
    for words in (
        FIRST,
        "on llvmpipe",
        "(driver ",
        "wrong numbers",
        "--devices cpu",
        "check --json",
        "its log: ",
    ):
        assert words in line
    assert changed("--devices", "numpy", *RUN, model).returncode == 0


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL"])
def test_a_driver_that_crashes_names_the_kernels_that_it_compiles(
    with_kernels: Any, model: Path, name: str
) -> None:
    crash = CRASH.format(kernel=FIRST, signal=name)
    done = with_kernels({}, **{"worker.vulkan.pipelines": crash})("--devices", "0", *RUN, model)
    assert done.returncode == 1
    (line,) = complaints(done.stderr)
    _, _, begun = line.partition(f"killed by {name} while it was compiling the kernels ")
    assert FIRST in begun.partition(" on llvmpipe")[0].split(", ")  # of as many as there are cores
    assert "--devices cpu" in line and "its log: " in line


def test_checking_reports_wrong_and_deadly_kernels_and_goes_on(with_kernels: Any) -> None:
    changed = with_kernels(
        {"matvec_f32": wrong_kernel("matvec_f32")},
        **{
            "worker.jobs.check": FEW,
            "worker.vulkan.pipelines": CRASH.format(kernel="matvec_f32_1x2", signal="SIGSEGV"),
        },
    )
    done = changed("check", "--devices", "0,0", "--json", "--quick")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    (device,) = found["devices"]
    assert (found["right"], device["right"], device["error"]) == (False, False, "")
    assert found["complete"]
    assert device["device"].startswith("llvmpipe") and "Mesa" in device["driver"]
    kernels = {kernel["kernel"]: kernel for kernel in device["kernels"]}
    assert {name for name, kernel in kernels.items() if not kernel["right"]} == {
        "matvec_f32",
        "matvec_f32_1x2",
    }
    wrong, deadly = kernels["matvec_f32"], kernels["matvec_f32_1x2"]
    assert wrong["error"] > 100 * wrong["bound"] and len(wrong["wrong"]) == wrong["checks"] > 1
    assert "MatMul(" in wrong["wrong"][0]["op"]
    assert all("SIGSEGV" in one["problem"] for one in deadly["wrong"])
    assert deadly["family"] == "matvec_f32" and deadly["variant"] == "_1x2"
    assert kernels["unit_norm"]["error"] <= kernels["unit_norm"]["bound"]

    done = changed("check", "--devices", "0", "--quick")
    assert done.returncode == 1
    assert "matvec_f32_1x2 fails: its process was killed by SIGSEGV" in done.stdout
    assert "matvec_f32 is wrong in " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert len(lines_about("unit_norm", done.stdout)) == 1


# The launcher stops behind its second check, and says so.
HOLD = """
import signal, sys
_heard_all = _heard
def _heard(report, begun, message):
    begun = _heard_all(report, begun, message)
    if len(report.outcomes) == 2:
        print("held", file=sys.stderr, flush=True)
        signal.pause()
    return begun
"""


@pytest.mark.parametrize(("number", "as_json"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_check_that_is_ended_tells_what_it_has_found(
    tplaunch: CommandLine, with_kernels: Any, number: signal.Signals, as_json: bool
) -> None:
    changed = with_kernels({}, **{"worker.jobs.check": FEW, "launcher.check_job": HOLD})
    process = changed.start("check", "--devices", "0", *(["--json"] if as_json else []))
    assert process.stderr is not None and process.stderr.readline() == "held\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, stderr
    if as_json:
        found = json.loads(stdout)
        (device,) = found["devices"]
        assert (found["complete"], found["right"]) == (False, True) and "speeds" not in device
        assert sum(kernel["checks"] for kernel in device["kernels"]) == 2
    else:
        assert "kernels are right" in stdout and stdout.endswith("not complete: ended by SIGINT\n")


def test_a_device_that_is_right(with_kernels: Any) -> None:
    done = with_kernels({}, **{"worker.jobs.check": FEW})("check", "-v", "--quick", check=True)
    assert "matvec_f32" in done.stdout and "kernels are right" in done.stdout
    assert "checking the kernel matvec_f32_wide" in done.stderr


# Appended to modules, so that speeds are there sooner.
SOONER = {
    "launcher.checking.parts": "\nBUDGETS[PRODUCTS] = 0.0\n",
    "launcher.checking.models": "\nPREFILL_ON_CPU, DECODE_ON_CPU = Test('prefill', 4), Test('decode', 2)\n",
    "worker.vulkan.measuring.bandwidth": "\nNUM_BYTES_ON_CPU = 1 << 20\n",
}


def figures_of(found: dict[str, Any]) -> dict[str, Any]:
    return {figure["key"]: figure for figure in found["figures"]}


def test_speeds_of_a_device_and_of_two_ranks_on_it(tplaunch: CommandLine, with_kernels: Any) -> None:
    cache = tplaunch.environment["XDG_CACHE_HOME"]  # what was measured before holds: kernels are the same
    changed = with_kernels({}, **{"worker.jobs.check": FEW}, **SOONER)
    changed.environment["XDG_CACHE_HOME"] = cache
    found = json.loads(changed("check", "--devices", "0", "--json", check=True).stdout)
    (device,) = found["devices"]
    assert found["right"] and device["right"] and found["pairs"] == []
    figures = figures_of(device["speeds"])
    measured = {key for key, figure in figures.items() if figure["value"] is not None}
    assert measured >= {
        *(f"wait.{way}" for way in ("block", "poll", "word", "singly")),
        *(f"copy.{way}" for way in ("device", "from_host", "to_host", "written", "read")),
        *("peak.f32", "share.imported", "share.sums", "exchange.block", "exchange.poll", "exchange.word"),
        "exchange.moved",
        *("prompt.1", "prompt.2", "ranks.prefill.1", "ranks.decode.2", "ranks.decode.ratio"),
    }  # fmt: skip
    assert figures.keys() - measured == {
        key for key in figures if key.startswith(("matvec.", "matmul.", "attention.", "experts."))
    } | ({"exchange.device"} - measured)  # for which there was no time; ranks may share a core
    assert figures["share.imported"]["value"] == 1 and 0 < figures["prompt.2"]["value"] < 1e-5
    assert len(device["kernels"]) > 1


def test_a_part_that_crashes_and_sums_that_are_wrong_leave_the_rest(with_kernels: Any) -> None:
    crash = CRASH.format(kernel="multiply_adds", signal="SIGSEGV")
    kernels = {"sum_norm_64": wrong_kernel("sum_norm_64")}
    without_models = "\nprompt_figures = rank_figures = lambda *arguments: iter(())\n"
    changed = with_kernels(
        kernels,
        **{
            "worker.jobs.check": FEW,
            "worker.vulkan.pipelines": crash,
            "launcher.commands.check": without_models,
        },
        **SOONER,
    )
    done = changed("check", "--devices", "0")
    assert done.returncode == 1
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = " ".join(done.stdout.split())
    for words in (
        "sum_norm_64 is wrong in",
        "multiply-adds, float32: its process was killed by SIGSEGV",
        "sums of both devices: sums are wrong: an error of",
        "host reads what came",
    ):
        assert words in said


def test_an_unknown_feature_to_do_without(tplaunch: CommandLine) -> None:
    assert tplaunch("check", "--without", "wings").returncode == 2


def spoil_output(path: Path, first: int, stop: int) -> None:
    """Makes some rows of the output matrix NaN."""
    tensor = next(one for one in gguf.GGUFReader(path, "r+").tensors if one.name == "output.weight")
    tensor.data[first:stop] = np.nan


@pytest.mark.parametrize(
    ("rows", "words"),
    [((30, 48), "on rank 1 (llvmpipe"), ((0, 48), "on every rank (llvmpipe"), ((0, 3), "on rank 0 (")],
)
def test_logits_that_are_no_numbers_name_the_device(
    tplaunch: CommandLine, model: Path, rows: tuple[int, int], words: str
) -> None:
    spoil_output(model, *rows)
    done = tplaunch("--devices", "0,0", *RUN, model)
    assert done.returncode == 1
    (line,) = complaints(done.stderr)
    assert f"{rows[1] - rows[0]} of 48 logits are NaN" in line and words in line
    assert "driver llvmpipe Mesa" in line and "`tplaunch check --devices 0`" in line
