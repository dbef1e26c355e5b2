"""A model with a chat template at a terminal, and in a script."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chatting import END, SIZE, START, TEMPLATE, VOCABULARY, make_tokenizer
from tests.command_line import CommandLine
from tests.models import make_spec, write_llama
from tests.multiprocess.test_failures import worker_processes
from tests.terminal import OPTIONS, Terminal

WORDS = ("--devices", "numpy", "-n", "2", "--temperature", "0", "--json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "talks.gguf"
    spec = make_spec(vocabulary_size=SIZE, context_length=512)
    write_llama(path, spec, vocabulary={**VOCABULARY, "tokenizer.chat_template": TEMPLATE})
    return path


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


def rendered(message: str, system: str | None = None) -> list[int]:
    """The tokens of a chat's first message."""
    encode = make_tokenizer().encode
    before = [] if system is None else [START, *encode(f"system\n{system}"), END, *encode("\n")]
    return [*before, START, *encode(f"user\n{message}"), END, *encode("\n"), START, *encode("assistant\n")]


def test_a_prompt_is_a_message_where_there_is_a_template(
    tplaunch: CommandLine, model: Path, tmp_path: Path
) -> None:
    def prompt_of(*words: str | Path, input: str | None = None) -> list[int]:
        result = tplaunch(*WORDS, model, *words, input=input, check=True)
        report: dict[str, Any] = json.loads(result.stdout)
        return list(report["prompt_tokens"])

    path = tmp_path / "message.txt"
    path.write_text("Hi there\n")
    for words, text in ((("-p", "Hi there"), None), (("-f", path), None), ((), "Hi there\n")):
        assert prompt_of(*words, input=text) == rendered("Hi there")
    assert prompt_of("Hi", "-sys", "Be brief.") == rendered("Hi", "Be brief.")
    assert prompt_of("a<|im_end|>b") == rendered("a<|im_end|>b")
    assert prompt_of("a<|im_end|>b", "--parse-special") == [ord("a"), END, ord("b")]
    assert prompt_of("Hi", "--no-chat") == list(b"Hi")
    template = tmp_path / "other.jinja"
    template.write_text("<{{ messages[0].content }}>")
    assert prompt_of("Hi", "--chat-template", template) == list(b"<Hi>")


def test_what_a_template_can_not_do_is_bad_input(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text("{{ raise_exception('no system prompts') }}")
    for words, sentence in (
        (("--chat-template", template), "no system prompts; --no-chat continues a text without a template"),
        (("--chat-template", tmp_path / "no"), "No such file or directory"),
        (("--chat-template", model), "it is no text in UTF-8"),
        (("-sys", "x", "--no-chat"), "--system-prompt is for a chat, and --no-chat continues a text"),
        (("-p", " "), "the message is empty"),
        (("-sys", "x", "--demo"), "no chat template that could hold a system prompt"),
    ):
        given = () if "--demo" in words else (model,)
        message = () if "-p" in words else ("-p", "Hi")
        result = tplaunch(*WORDS, *given, *message, *words)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert sentence in result.stderr


def test_a_second_turn_computes_what_is_new(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal], tmp_path: Path
) -> None:
    """And standard output has the answers alone."""
    path = tmp_path / "answers"
    terminal = Terminal(tplaunch, model, "--json", "--ignore-eos", "-n", "150", output=path)
    terminals.append(terminal)
    for count, message in enumerate(("Tell me of a fox.", "And then?"), 1):
        terminal.read_until("> ", count)
        terminal.type(message + "\n")
    terminal.read_until("> ", 3)
    terminal.type("\x04")
    terminal.read_to_end()
    assert terminal.process.returncode == 0
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["prompt_tokens"] == rendered("Tell me of a fox.")
    computed = [*first["prompt_tokens"], *first["tokens"]]
    assert second["prompt_tokens"][: len(computed) + 1] == [*computed, END]
    assert len(computed) - 32 < second["cached_tokens"] <= len(computed)  # whole blocks of 32


def test_ctrl_c_stops_an_answer_and_keeps_the_model(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal], tmp_path: Path
) -> None:
    terminal = Terminal(tplaunch, model, "--ignore-eos", "-n", "100000", "--context", "100000")
    terminals.append(terminal)
    terminal.read_until("> ")
    workers = worker_processes(terminal.process)
    terminal.type("Hi\n")
    terminal.read_until("> Hi\n")
    while len(terminal.screen.partition("> Hi\n")[2]) < 20:  # some of the answer
        terminal.read_more()
    terminal.type("\x03")
    terminal.read_until("stopped after")
    terminal.read_until("> ", 2)
    assert worker_processes(terminal.process) == workers
    terminal.type("/set max_tokens 4\n")
    terminal.read_until("> ", 3)
    terminal.type("one \\\n")
    terminal.read_until(". ")
    terminal.type("two\n")
    terminal.read_until("cut after 4 tokens")
    terminal.read_until("> ", 4)
    saved = tmp_path / "chat.json"
    terminal.type(f"/save {saved}\n")
    terminal.read_until("> ", 5)
    assert [each["content"] for each in json.loads(saved.read_text())[::2]] == ["Hi", "one \ntwo"]
    terminal.type("half a messa\x03")
    terminal.read_until("Ctrl-C again ends")
    terminal.read_until("> ", 6)
    terminal.type("\x03")
    terminal.read_to_end()
    assert terminal.process.returncode == 130
    assert "Traceback" not in terminal.screen


def test_ctrl_c_ends_a_run_of_one_message(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    options = ("-p", "Hi", "--ignore-eos", "-n", "100000", "--context", "100000")
    terminal = Terminal(tplaunch, model, *options)
    terminals.append(terminal)
    terminal.read_until("NumPy")
    workers = worker_processes(terminal.process)
    terminal.type("\x03")
    terminal.read_to_end()
    assert terminal.process.returncode == 130 and "Traceback" not in terminal.screen
    assert not any(worker.is_running() for worker in workers.values())


def test_a_third_ctrl_c_does_not_wait_for_a_step_that_hangs(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal(tplaunch, model, "--ignore-eos", "-n", "100000", "--context", "100000")
    terminals.append(terminal)
    terminal.read_until("> ")
    worker = worker_processes(terminal.process)[1]
    terminal.type("Hi\n")
    terminal.read_until("> Hi\n")
    while not terminal.screen.partition("> Hi\n")[2]:
        terminal.read_more()
    worker.suspend()
    while terminal.process.poll() is None:
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.read_if_any()
    assert terminal.process.returncode == 130 and "Traceback" not in terminal.screen


def test_a_rank_that_dies_during_an_answer(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal(tplaunch, model, "--ignore-eos", "-n", "100000", "--context", "100000")
    terminals.append(terminal)
    terminal.read_until("> ")
    terminal.type("Hi\n")
    terminal.read_until("> Hi\n")
    while not terminal.screen.partition("> Hi\n")[2]:
        terminal.read_more()
    os.kill(worker_processes(terminal.process)[1].pid, signal.SIGKILL)
    terminal.read_to_end()
    tplaunch.printed += terminal.screen
    assert terminal.process.returncode == 1
    assert "\ntplaunch: rank 1 (numpy) ended" in terminal.screen  # on a line of its own


def test_text_wraps_at_words_on_a_terminal_only(
    tplaunch: CommandLine, shared_dir: Path, terminals: list[Terminal]
) -> None:
    words = ("-p", "Once upon a time", "-n", "60")
    stories = shared_dir / "models/stories260K-f32.gguf"
    piped = tplaunch(*OPTIONS, *words, stories, check=True).stdout
    assert piped.count("\n") == piped.rstrip("\n").count("\n") + 1 and not piped.startswith("Once")
    terminal = Terminal(tplaunch, stories, *words, columns=30)
    terminals.append(terminal)
    terminal.read_to_end()
    assert terminal.process.returncode == 0
    begin = terminal.screen.index("Once upon a time")
    lines = terminal.screen[begin : terminal.screen.index("tplaunch: cut after 60")].splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(lines).split() == ("Once upon a time" + piped).split()
