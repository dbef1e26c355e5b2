"""The prompt loop at a terminal, which the test holds the other end of."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_failures import worker_processes
from tests.patience import PATIENCE
from tests.terminal import OPTIONS, Terminal


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


@pytest.mark.parametrize("typed", ["", "Once upon"])
@pytest.mark.parametrize("to_file", [False, True])
def test_a_rank_that_dies_at_an_idle_prompt(
    tplaunch: CommandLine,
    model: Path,
    terminals: list[Terminal],
    tmp_path: Path,
    typed: str,
    to_file: bool,
) -> None:
    terminal = Terminal(tplaunch, model, output=tmp_path / "out" if to_file else None)
    terminals.append(terminal)
    terminal.read_until("> ")
    terminal.type(typed)
    terminal.read_until(typed)
    worker = worker_processes(terminal.process)[1]
    os.kill(worker.pid, signal.SIGKILL)
    terminal.read_to_end()
    tplaunch.printed += terminal.screen
    assert terminal.process.returncode == 1
    said = "tplaunch: rank 1 (numpy) ended: killed by SIGKILL ("
    assert said in " ".join(terminal.screen.split())  # in as many lines as the terminal is wide
    assert not terminal.lines_are_edited()  # the terminal is as it was before


def test_answers_go_to_a_file_and_prompts_to_the_terminal(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal], tmp_path: Path
) -> None:
    answers = tmp_path / "answers.txt"
    terminal = Terminal(tplaunch, model, output=answers)
    terminals.append(terminal)
    for count, text in enumerate(("Once", "Lily"), 1):
        terminal.read_until("> ", count)
        terminal.type(text + "\n")
    terminal.read_until("> ", 3)
    terminal.type("\x04")
    terminal.read_to_end()
    assert terminal.process.returncode == 0
    expected = [tplaunch(*OPTIONS, model, "-p", text, check=True).stdout for text in ("Once", "Lily")]
    assert answers.read_text() == "".join(expected)


def test_lines_can_be_edited_and_a_stop_loses_nothing(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal(tplaunch, model)
    terminals.append(terminal)
    terminal.read_until("> ")
    terminal.type("Oncex")
    terminal.read_until("Oncex")
    assert terminal.lines_are_edited()
    for worker in worker_processes(terminal.process).values():
        worker.suspend()
        while worker.status() != psutil.STATUS_STOPPED:
            os.sched_yield()
        worker.resume()
    terminal.type("\x7f\n")
    terminal.read_until("> ", 2)
    answer = terminal.screen.rpartition("> ")[0]
    expected = tplaunch(*OPTIONS, model, "-p", "Once", check=True).stdout
    assert expected.strip() in answer
    terminal.type("\x04")
    terminal.read_to_end()
    assert terminal.process.returncode == 0


def test_ctrl_c_at_the_prompt_drops_the_line_and_twice_ends(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal(tplaunch, model)
    terminals.append(terminal)
    for count in (1, 3):  # a line in between begins anew
        terminal.read_until("> ", count)
        terminal.type("Once upon")
        terminal.read_until("Once upon", (count + 1) // 2)
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.read_until("> ", count + 1)
        terminal.type("Lily\n")
    terminal.read_until("> ", 5)
    expected = tplaunch(*OPTIONS, model, "-p", "Lily", check=True).stdout
    assert terminal.screen.count(expected.strip()) == 2
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.read_until("> ", 6)
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.read_to_end()
    assert terminal.process.returncode == 130
    assert "Traceback" not in terminal.screen


def test_ctrl_c_stops_a_text_and_keeps_the_model(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal]
) -> None:
    terminal = Terminal(tplaunch, model, "-n", "100000", "--ignore-eos", "--context", "100000")
    terminals.append(terminal)
    terminal.read_until("> ")
    workers = worker_processes(terminal.process)
    for count, text in enumerate(("Once", "Lily"), 1):
        terminal.type(text + "\n")
        terminal.read_until("the", 5 * count)  # words of the text
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.read_until("stopped after", count)
        terminal.read_until("> ", 1 + count)
    assert workers == worker_processes(terminal.process)
    terminal.type("\x04")
    terminal.read_to_end()
    assert terminal.process.returncode == 0


@pytest.fixture
def stopped(tplaunch: CommandLine, model: Path, terminals: list[Terminal]) -> tuple[Terminal, psutil.Process]:
    """A launcher at its prompt that will get all signals at the same time, once it goes on.

    Python then runs one's handler while it takes another one's exception out of input().
    """
    terminal = Terminal(tplaunch, model)
    terminals.append(terminal)
    terminal.read_until("> ")
    launcher = psutil.Process(terminal.process.pid)
    launcher.suspend()
    while launcher.status() != psutil.STATUS_STOPPED:
        os.sched_yield()
    return terminal, launcher


@pytest.mark.parametrize("other", [signal.SIGURG, signal.SIGCHLD])
def test_ctrl_c_at_the_same_time_as_another_signal(
    stopped: tuple[Terminal, psutil.Process], other: signal.Signals
) -> None:
    terminal, launcher = stopped
    for number in (signal.SIGINT, other, signal.SIGCONT):
        launcher.send_signal(number)
    terminal.read_until("> ", 2)
    launcher.send_signal(signal.SIGINT)
    terminal.read_to_end()
    assert (terminal.process.returncode, "Traceback" in terminal.screen) == (130, False), terminal.screen


def test_a_rank_that_dies_at_the_same_time_as_another_signal_comes(
    tplaunch: CommandLine, stopped: tuple[Terminal, psutil.Process]
) -> None:
    terminal, launcher = stopped
    worker_processes(terminal.process)[1].kill()
    for number in (signal.SIGURG, signal.SIGCONT):
        launcher.send_signal(number)
    terminal.read_to_end()
    tplaunch.printed += terminal.screen
    assert (terminal.process.returncode, "Traceback" in terminal.screen) == (1, False), terminal.screen


@pytest.mark.parametrize("options", [(), ("-p", "Once", "--ignore-eos", "--context", "100000")])
def test_a_terminal_that_is_closed(
    tplaunch: CommandLine, model: Path, terminals: list[Terminal], options: tuple[str, ...]
) -> None:
    terminal = Terminal(tplaunch, model, *options, "-n", "100000")
    terminals.append(terminal)
    terminal.read_until("Once" if options else "> ")
    terminal.hang_up()
    assert terminal.process.wait(PATIENCE) == 129
    assert list((tplaunch.folder / "state").glob("tplaunch/*")) == []
