"""Prompts come out of files, and stay text where they hold what looks like control tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vocabularies import CONTROL, FIRST, byte_level_metadata
from tplaunch.coordinator.text.tokenizer import load_tokenizer
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.prompt_text import encode_prompt, read_prompt_file
from tplaunch.launcher.streams import MAX_PROMPT_BYTES


def test_a_file_is_read_as_it_is_but_for_its_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("Es war\r\neinmal é\xff\n\n".encode() + b"\xff\n")
    assert read_prompt_file(path) == "Es war\neinmal é\xff\n\n\ufffd"
    path.write_bytes(b"")
    assert read_prompt_file(path) == ""


def test_a_pipe_is_a_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"Once\n")
    os.close(writer)
    assert read_prompt_file(Path(f"/dev/fd/{reader}")) == "Once"
    os.close(reader)


def test_files_that_hold_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_PROMPT_BYTES + 1)
    for name, sentence in {
        "absent": "absent can't be read: No such file",
        ".": "Is a directory",
        "m.gguf": "that is a model; -f gives a file with a prompt",
        "large": "has more than 64 MiB: that is no prompt",
        "a\0b": "embedded null byte",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            read_prompt_file(tmp_path / name)


def test_control_tokens_are_parsed_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(byte_level_metadata(added=[("<|im_end|>", CONTROL)]))
    assert encode_prompt(tokenizer, "a<|im_end|>", parse_special=True)[-1] == FIRST
    assert capsys.readouterr().err == ""
    assert FIRST not in encode_prompt(tokenizer, "a<|im_end|>", parse_special=False)
    assert "tplaunch: <|im_end|> stays text in the prompt; --parse-special" in capsys.readouterr().err
    encode_prompt(tokenizer, "a<|im_end", parse_special=False)
    assert capsys.readouterr().err == ""
