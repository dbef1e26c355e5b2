"""The order in which signals end a process, each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

PREFACE = """
import os, signal, sys, time
signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's job in the background ignores it
from tplaunch.launcher import signals
from tplaunch.launcher.signals import held
signals.exit_at_once()
signals.raise_once()
def send(number):
    os.kill(os.getpid(), number)
"""
END = """
except signals.Signalled as signalled:
    print("ends with", signalled.exit_code)
"""


def run(script: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("send(1)", "ends with 129\n"),
        ("with held(): send(15); print('whole')", "whole\nends with 143\n"),
        ("with held():\n with held(): send(1); send(2)\n print('whole')", "whole\nends with 129\n"),
        ("try: send(2)\nfinally:\n with held(): send(15); print('once')", "once\nends with 130\n"),
        ("with held(): print('none')", "none\n"),
        (
            "import threading\n"
            "begun, over = threading.Event(), threading.Event()\n"
            "def hold():\n with held(): begun.set(); over.wait()\n"
            "thread = threading.Thread(target=hold)\n"
            "thread.start(); begun.wait()\n"
            "try: send(15); print('this thread is not held')\n"
            "finally: over.set(); thread.join()",
            "ends with 143\n",
        ),
    ],
)
def test_the_first_signal_counts_and_the_clean_up_is_whole(body: str, printed: str) -> None:
    assert run(f"{PREFACE}try:\n{textwrap.indent(body, ' ')}{END}") == (0, printed, "")


def test_a_signal_is_not_lost_where_python_ignores_exceptions() -> None:
    body = """
class Ends:
    def __del__(self):
        send(signal.SIGTERM)
        for _ in range(1000):
            pass
try:
    Ends()
    while True:
        time.sleep(0.01)
"""
    assert run(f"{PREFACE}{body}{END.lstrip()}") == (0, "ends with 143\n", "")


def test_before_anything_is_there_a_signal_ends_the_process_at_once() -> None:
    script = (
        "import os\nfrom tplaunch.launcher import signals\nsignals.exit_at_once()\nos.kill(os.getpid(), 2)"
    )
    assert run(script + "\nfor _ in range(1000):\n    pass\nprint('too late')") == (130, "", "")


@pytest.mark.parametrize("error", ["RuntimeError('lost in C')", "RunError('rank 0 ended')"])
def test_a_signal_of_which_python_makes_another_error_ends_the_run_all_the_same(error: str) -> None:
    """Extensions put errors of their own in place of one that comes while they run."""
    body = f"""
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher import cli, entry
def run(words):
    try:
        send(signal.SIGQUIT)
    except signals.Signalled:
        raise {error} from None
cli._run = run
sys.argv = ["tplaunch", "devices"]
sys.exit(entry.main())
"""
    assert run(PREFACE + body) == (131, "", "")


def test_a_run_that_fails_before_a_lost_signal_comes_again_ends_by_it() -> None:
    """As where the workers got it, too."""
    body = """
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher import cli, entry
signals.RETRY_SECONDS = 60
class Ends:
    def __del__(self):
        send(signal.SIGQUIT)
        for _ in range(1000):
            pass
def run(words):
    Ends()
    raise RunError("rank 0 ended: killed by SIGQUIT")
cli._run = run
sys.argv = ["tplaunch", "devices"]
code = entry.main()
os._exit(code)  # without the wait for the thread that would send it again
"""
    assert run(PREFACE + body) == (131, "", "")


def test_a_signal_in_the_last_moment_is_no_traceback() -> None:
    body = """
from tplaunch.launcher import cli, entry
ignore = signals.ignore
def ignore_too_late():
    send(signal.SIGQUIT)
    ignore()
cli.main, signals.ignore = lambda: 0, ignore_too_late
sys.exit(entry.main())
"""
    assert run(PREFACE + body) == (131, "", "")


def test_how_workers_ended_is_seen_where_their_signal_was_ignored() -> None:
    script = """
import signal, subprocess
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from tplaunch.launcher import signals
signals.exit_at_once()
print(subprocess.run(["sh", "-c", "exit 7"]).returncode)
"""
    assert run(script) == (0, "7\n", "")


def test_nothing_heavy_is_imported_before_signals_are_minded() -> None:
    script = "import sys; before = set(sys.modules); import tplaunch.launcher.entry"
    script += "; print(*set(sys.modules) - before)"
    imported = set(run(script)[1].split())
    assert imported and not {"numpy", "zmq", "argparse", "subprocess"} & imported
