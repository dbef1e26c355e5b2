"""A shell completes commands, options, their values and files, with a script that it has loaded once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tplaunch.launcher.completion import SHELLS, completion_script
from tplaunch.launcher.options import make_parser

COMPLETE = """
source "$1"; shift
COMP_WORDS=(tplaunch "$@"); COMP_CWORD=$#
_shtab_tplaunch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "tplaunch"
    path.write_text(completion_script(make_parser(), "bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here; apt-get install bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["be"], {"bench", "bench-collectives"}),
        (["--tensor"], {"--tensor-split"}),
        (["m.gguf", "--dev"], {"--devices"}),  # run needs no name
        (["run", "m.gguf", "--hf"], {"--hf-repo", "--hf-file"}),
        (["m.gguf", "-p", "x", "--kv-type", ""], {"f16", "f32", "q8_0"}),
        (["plan", "--sha"], {"--shape"}),
        (["devices", "--"], {"--json", "--help"}),
        (["-m", "mod"], {"model.gguf"}),
        (["run", "mod"], {"model.gguf"}),
        (["-f", "pro"], {"prompt.txt"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], script: Path, tmp_path: Path) -> None:
    for name in ("model.gguf", "prompt.txt"):
        (tmp_path / name).touch()
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(script), *words]
    printed = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert set(printed.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str) -> None:
    script = completion_script(make_parser(), shell)
    assert "bench-collectives" in script and "tensor-split" in script


def test_it_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["--print-completion", "zsh"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("#compdef tplaunch")
