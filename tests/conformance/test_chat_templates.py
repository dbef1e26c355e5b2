"""Real chat templates render as transformers renders them, and fail where it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tplaunch.coordinator.text.chat.template import ChatTemplate, ChatTemplateError

NUM_TEMPLATES = 51
NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def folder(shared_dir: Path) -> Iterator[Path]:
    if not (shared_dir / "templates/rendered.json").is_file():
        pytest.skip("no reference renderings: ../shared/templates is not there")
    yield shared_dir / "templates"


def differences(template: ChatTemplate, cases: dict[str, Any], rendered: dict[str, Any]) -> Iterator[str]:
    for case, expected in rendered.items():
        try:
            text = template.render(**cases[case])
        except ChatTemplateError as error:
            if isinstance(expected, str):
                yield f"{case}: {error}"
            if "\n" in str(error):
                yield f"{case}: the error has several lines"
        else:
            if text != expected:
                yield f"{case}: {text!r} is not {expected!r}"


@pytest.mark.parametrize("part", range(3))
def test_renderings_are_those_of_transformers(folder: Path, part: int) -> None:
    content = json.loads((folder / "rendered.json").read_text())
    assert len(content["rendered"]) == NUM_TEMPLATES and len(content["cases"]) == 9
    wrong = []
    for name, rendered in sorted(content["rendered"].items())[part::3]:
        assert rendered.keys() == content["cases"].keys()
        template = ChatTemplate((folder / f"{name}.jinja").read_text(), "<s>", "</s>", clock=lambda: NOW)
        wrong += [f"{name}: {text}" for text in differences(template, content["cases"], rendered)]
        template.close()
    assert wrong == []
