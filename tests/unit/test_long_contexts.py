"""Contexts longer than the one that a model was trained for: said where it runs, refused where it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import SEED, load_builder
from tests.models import SPEC, write_llama
from tplaunch.launcher.cli import main


def plan_of(capsys: pytest.CaptureFixture[str], path: Path, context: int) -> tuple[int, str]:
    code = main(["plan", "--devices=numpy", str(path), f"--context={context}"])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_longer_context_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_llama(tmp_path / "m.gguf")
    trained = SPEC.context_length
    code, text = plan_of(capsys, tmp_path / "m.gguf", trained + 1)
    assert code == 0 and f"the model was trained for only {trained}: what" in text and "fits" not in text
    code, text = plan_of(capsys, tmp_path / "m.gguf", trained)
    assert code == 0 and f"largest context that fits: {trained}, all that the model was trained for" in text


@pytest.mark.parametrize("name", ["gpt2-dense", "mpt-dense"])
def test_positions_that_were_learned_have_an_end(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    builder, path = load_builder(shared_dir), tmp_path / "m.gguf"
    spec = builder.specs()[name]
    builder.write(spec, path, SEED)
    rows = dict(spec["tensors"])["position_embd.weight"][0]
    code, text = plan_of(capsys, path, rows + 1)
    assert code == 2
    assert f"a context of {rows + 1} is not possible: the model has learned {rows} positions" in text
    assert plan_of(capsys, path, rows)[0] == 0
    tokens = ",".join(["1"] * (rows + 1))
    assert main(["run", "--devices=numpy", str(path), f"--tokens={tokens}"]) == 2
    text = capsys.readouterr().err
    assert f"the context of {rows} has room for {rows - 1}: 2 too many; shorten it (the model" in text
    assert "--context" not in text, "which can't be larger"
    assert main(["bench", "--devices=numpy", str(path), "--prefill=none", "--decode=4"]) == 2
    text = capsys.readouterr().err
    assert f"the longest test needs 2053 positions, but the model has learned {rows}" in text
    assert "--context " not in text
