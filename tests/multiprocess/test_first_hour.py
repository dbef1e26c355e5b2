"""A newcomer's first commands work as written, on a terminal of 80 columns."""

import json
from pathlib import Path

from tests.command_line import CommandLine

COLUMNS = {"COLUMNS": "80"}


def test_the_demo_tells_a_story_by_name(tplaunch: CommandLine) -> None:
    report = json.loads(
        tplaunch("--demo", "--devices", "numpy,numpy", "--temperature", "0", "--json", check=True).stdout
    )
    assert report["finish_reason"] == "stop"
    assert report["text"].startswith(", ") and report["text"].endswith(".")


def test_a_prompt_as_the_second_word(tplaunch: CommandLine) -> None:
    words = ("--demo", "-n", "20", "--temperature", "0", "--devices", "0")
    by_option = tplaunch(*words, "-p", "There was a fox", check=True)
    assert by_option.stdout == tplaunch(*words, "There was a fox", check=True).stdout
    assert by_option.stderr == ""


def test_what_is_measured_keeps_to_the_terminal(tplaunch: CommandLine) -> None:
    tests = ("--prefill", "16", "--decode", "4", "--at-context", "0", "--repeat", "1", "--ledger")
    for words in (("bench", "--demo", "--devices", "0,0", *tests), ("devices",)):
        lines = tplaunch(*words, env=COLUMNS, check=True).stdout.splitlines()
        long_paths = [line for line in lines if len(line) > 80 and max(map(len, line.split())) < 70]
        assert len(lines) > 3 and long_paths == []


def test_a_feature_that_is_missing_is_bad_input(tplaunch: CommandLine) -> None:
    words = ("--demo", "-n", "3", "--activations", "q8", "--without", "integer_dot_product")
    result = tplaunch(*words)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "has no integer dot product; use --activations f32" in result.stderr
    assert not list((tplaunch.folder / "state").rglob("*.log"))


def test_without_any_driver_it_runs_and_says_so(tplaunch: CommandLine, tmp_path: Path) -> None:
    nothing = str(tmp_path / "none.json")
    result = tplaunch(
        "--demo", "-n", "3", env={"VK_DRIVER_FILES": nothing, "VK_ICD_FILENAMES": nothing}, check=True
    )
    assert result.stdout
    assert "there is no Vulkan device (no Vulkan driver is installed: " in result.stderr
    assert f"VK_DRIVER_FILES is set, to {nothing}"[:60] in result.stderr
    assert "; the model runs on cpu:" in result.stderr


def test_two_drivers_of_one_processor_are_one_device(
    tplaunch: CommandLine, both_drivers_env: dict[str, str]
) -> None:
    variables = {name: both_drivers_env[name] for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")}
    devices = json.loads(tplaunch("devices", "--json", env=variables, check=True).stdout)["devices"]
    assert ["llvmpipe" in each["name"] for each in devices if each["in_all"]] == [True]
    assert len(devices) == 2
