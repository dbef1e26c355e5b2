"""Processors are checked and measured, and NumPy stands in for kernels that can't be compiled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.models import write_llama
from tests.wrong_kernels import package_with

GENERATE = ("--tokens", "1,2,3", "-n", "3", "--temperature", "0", "--json", "--devices")
FEW = """
_every_op = every_op
def every_op(*arguments):
    return [one for one in _every_op(*arguments) if type(one.op).__name__ in ("SumNorm", "Clamp")]
"""
SOONER = {
    "worker/jobs/check": FEW,
    "worker/jobs/processor_figures": "\nTYPES, NUM_WEIGHTS = ['Q8_0'], 1 << 20\n",
    "launcher/checking/models": "\nPREFILL_ON_CPU, DECODE_ON_CPU = Test('prefill', 4), Test('decode', 2)\n",
}
# What Python runs at its start: LLVM's package is found, and refuses to be imported.
REFUSING = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "llvmlite.binding":
            raise ImportError("made for another Python")
sys.meta_path.insert(0, Finder())
"""
WRONG = "\nplus = minus\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_llama(path)
    return path


def without(folder: Path, text: str) -> dict[str, str]:
    """Returns the environment of a Python that runs this text when it starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import sys\nsys.modules['numba'] = None\n",
            "in place of compiled kernels, and is slower: numba can't be found",
        ),
        (
            REFUSING,
            "in place of compiled kernels, and is slower: made for another Python",
        ),
    ],
    ids=["missing", "not to be imported"],
)
def test_numpy_stands_in_and_a_line_says_so(
    tplaunch: CommandLine, model: Path, tmp_path: Path, text: str, says: str
) -> None:
    expected = json.loads(tplaunch(*GENERATE, "numpy", model, check=True).stdout)["tokens"]
    found = tplaunch(*GENERATE, "cpu,cpu", model, env=without(tmp_path / "python", text), check=True)
    assert json.loads(found.stdout)["tokens"] == expected
    assert found.stderr.count(says) == 1


def changed(tplaunch: CommandLine, folder: Path, modules: dict[str, str]) -> CommandLine:
    """Makes the command line that of a package whose modules end with these texts."""
    tplaunch.program = (sys.executable, "-c", package_with(folder, {}))
    for module, text in modules.items():
        with (folder / f"tplaunch/{module}.py").open("a") as file:
            file.write(text)
    return tplaunch


def test_checking_tells_the_speeds_of_processors(tplaunch: CommandLine, tmp_path: Path) -> None:
    done = changed(tplaunch, tmp_path / "package", SOONER)(
        "check", "--devices", "cpu,cpu", "--json", check=True
    )
    found = json.loads(done.stdout)
    (device,) = found["devices"]
    assert (found["right"], found["pairs"], device["index"], device["word"]) == (True, [], None, "cpu")
    assert "numba" in device["driver"]
    assert {kernel["kernel"] for kernel in device["kernels"]} == {"SumNorm", "Clamp"}
    figures = {figure["key"]: figure for figure in device["speeds"]["figures"]}
    measured = {key for key, figure in figures.items() if figure["value"] is not None}
    assert measured == figures.keys() == {
        *("read.memory", "matvec.q8_0", "matmul.q8_0", "prompt.1", "prompt.2"),
        *(f"ranks.{kind}.{way}" for kind in ("prefill", "decode") for way in ("1", "2", "ratio")),
    }  # fmt: skip
    assert figures["matvec.q8_0"]["share_of"] == "read.memory" and figures["matvec.q8_0"]["share"] > 0


def test_a_wrong_kernel_for_processors_is_found(tplaunch: CommandLine, tmp_path: Path) -> None:
    modules = {"worker/jobs/check": FEW, "worker/cpu/kernels/vectors": WRONG}
    done = changed(tplaunch, tmp_path / "package", modules)("check", "--devices", "cpu", "--quick")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("cpu  processor, ") and "SumNorm is wrong in " in done.stdout
    assert "1 of 2 kernels are right" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_numpy_is_not_checked(tplaunch: CommandLine) -> None:
    done = tplaunch("check", "--devices", "numpy")
    assert done.returncode == 2 and "NumPy is what kernels are checked against" in done.stderr
