"""--override-kv: what is written on the command line is what the model's spec is read from."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tests.models import write_llama
from tplaunch.launcher.cli import main
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.overrides import Value, overridden, parse_overrides


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("llama.context_length=int:8192", "llama.context_length", 8192),
        ("a.b=int:-5", "a.b", -5),
        ("a.b=float:1e-5", "a.b", 1e-5),
        ("a.b=float:3", "a.b", 3.0),
        ("a.b=bool:true", "a.b", True),
        ("a.b=bool:false", "a.b", False),
        ("a.b=str:", "a.b", ""),
        ("a.b=str:x=int:3", "a.b", "x=int:3"),
        ("a.b=str:t\u00e4xt, \u2581", "a.b", "t\u00e4xt, \u2581"),
    ],
)
def test_values_are_of_their_type(text: str, key: str, value: Value) -> None:
    ((found_key, found),) = parse_overrides([text])
    assert (found_key, found, type(found)) == (key, value, type(value))


@pytest.mark.parametrize(
    "text",
    ["", "a", "a=", "a=3", "a=int", "=int:3", "a=integer:3", "a=INT:3", "a:int=3", "x" * 10_000],
)
def test_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"KEY=TYPE:VALUE is needed .* such as llama\.context") as e:
        parse_overrides([text])
    assert len(str(e.value)) < 300


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a=int:", "int"),
        ("a=int:1.5", "int"),
        ("a=int:9223372036854775808", "int"),
        ("a=int:" + "9" * 5000, "int"),
        ("a=float:x", "float"),
        ("a=float:nan", "float"),
        ("a=float:inf", "float"),
        ("a=bool:yes", "bool"),
        ("a=bool:1", "bool"),
    ],
)
def test_values_of_another_type_are_refused_with_an_example(text: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f" is no {kind}; such as llama.context_length=int:8192") as e:
        parse_overrides([text])
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("key", ["general.alignment", "split.count", "split.no"])
def test_the_files_own_layout_stays(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key} says how the file is laid out, which stays"):
        parse_overrides([f"{key}=int:64"])


def test_keys_are_set_and_added_and_the_last_one_counts() -> None:
    overrides = parse_overrides(["a=int:1", "b=str:new", "a=int:2"])
    before = {"a": 0, "c": [1, 2]}
    assert overridden(before, overrides) == {"a": 2, "b": "new", "c": [1, 2]}
    assert before == {"a": 0, "c": [1, 2]}


def plan_of(capsys: pytest.CaptureFixture[str], path: Path, *overrides: str) -> tuple[int, str]:
    options = [word for text in overrides for word in ("--override-kv", text)]
    code = main(["plan", "--devices=numpy", str(path), *options])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_the_spec_is_read_from_what_was_overridden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    write_llama(path)
    assert re.search(r"context\s128,", plan_of(capsys, path)[1])  # in whichever line
    assert re.search(r"context\s96,", plan_of(capsys, path, "llama.context_length=int:96")[1])
    code, text = plan_of(capsys, path, "llama.attention.head_count=str:four")
    assert code == 2 and "llama.attention.head_count is 'four'; an integer is needed" in text
    code, text = plan_of(capsys, path, f"llama.rope.freq_base=float:{math.pi}", "llama.block_count=int:3")
    assert code == 2 and "the model has no tensor 'blk.2." in text
    code, text = plan_of(capsys, path, "llama.block_count")
    assert code == 2 and text.count("\n") == 1


def test_a_shape_has_no_metadata(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape=tiny", "--devices=numpy", "--override-kv=a=int:3"]) == 2
    assert "--override-kv goes with a model file" in capsys.readouterr().err
