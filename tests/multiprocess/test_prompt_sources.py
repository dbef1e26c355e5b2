"""A prompt by -p, out of a file and out of standard input is the same prompt."""

import json
from pathlib import Path

from tests.command_line import CommandLine

WORDS = ("--demo", "--devices", "numpy", "-n", "2", "--temperature", "0", "--json")


def test_a_prompt_from_anywhere(tplaunch: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("There was a fox\n")
    reports = [
        json.loads(tplaunch(*WORDS, *words, input=text, check=True).stdout)
        for words, text in (
            (("-p", "There was a fox"), None),
            (("-f", path), "another"),
            (("-p", "-"), "There was a fox\n"),
            (("-f", "-"), "There was a fox"),
        )
    ]
    kept = [(report["prompt_tokens"], report["text"]) for report in reports]
    assert kept == kept[:1] * 4 and len(kept[0][0]) > 1


def test_control_tokens_in_a_prompt(tplaunch: CommandLine) -> None:
    text = tplaunch(*WORDS, "-p", "a</s>b", check=True)
    parsed = tplaunch(*WORDS, "-p", "a</s>b", "--parse-special", check=True)
    assert "</s> stays text in the prompt; --parse-special" in text.stderr
    assert len(json.loads(parsed.stdout)["prompt_tokens"]) < len(json.loads(text.stdout)["prompt_tokens"])
    assert "stays text" not in parsed.stderr


def test_a_prompt_that_is_not_there_is_bad_input(tplaunch: CommandLine) -> None:
    for words, sentence in (
        (("-f", "absent.txt"), "-f absent.txt can't be read: No such file or directory"),
        (("-p", "-", "--tokens", "5"), "both give a prompt"),
    ):
        result = tplaunch(*WORDS, *words)
        assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1
