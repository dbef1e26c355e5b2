"""`tplaunch models`, and the README's table, which is made of the same."""

from __future__ import annotations

import json

import pytest

from tests.drivers import REPOSITORY
from tplaunch.coordinator.architectures.table import ARCHITECTURES
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.launcher.cli import main
from tplaunch.launcher.commands.models import models_markdown


def test_the_readme_has_the_table() -> None:
    table = models_markdown()
    readme = (REPOSITORY / "README.md").read_text()
    assert table in readme, "run `tplaunch models --markdown` and put it into the README"


def test_all_that_runs_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[: len(ARCHITECTURES)]} == set(ARCHITECTURES)
    types = " ".join(lines[len(ARCHITECTURES) :])
    assert all(f"{name} (" in types for name in WEIGHT_TYPES)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architectures"]["qwen3moe"] == ["experts", "query-key norm"]
    assert found["architectures"]["qwen2"] == ["dense"]
    assert found["weight_types"]["Q4_K"]["file_bits"] == 4.5
    assert 4.5 <= found["weight_types"]["Q4_K"]["device_bits"] <= 4.5 * 1.12
