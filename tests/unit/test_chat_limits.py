"""Templates that are made to do harm end in a sentence, within a bounded time, and leave no process."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests.drivers import REPOSITORY
from tplaunch.coordinator.text.chat.template import ChatTemplate, ChatTemplateError, RenderLimits

HI = [{"role": "user", "content": "Hi"}]
SHORT = RenderLimits(max_seconds=0.2, max_bytes=256 << 20, max_characters=1 << 20)
TIME, MEMORY, LENGTH = r"more than 0\.2 s", "more than 256 MiB", "more than 1048576 characters"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{%% set n = namespace(x=%s) %%}{%% for i in range(60000) %%}{%% set n.x = %s %%}{%% endfor %%}"


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (ENDLESS, TIME),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ 7**100000000 % 10 }}", TIME),
        ("{{ lipsum(n=10**7) }}", TIME),
        ("{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(90) }}", TIME),
        (GROWING % ("[]", "[n.x, n.x]") + "{{ n.x }}", f"{TIME}|{MEMORY}|RecursionError"),
        ("{{ " + "+".join(["1"] * 100_000) + " }}", f"{TIME}|RecursionError|was killed by SIGSEGV"),
        ("{{ 'x' * 10**10 }}", MEMORY),
        ("{{ [0] * 10**9 }}", MEMORY),
        ("{{ '%10000000000d' % 1 }}", MEMORY),
        ("{{ 'x'.ljust(10**10) }}", MEMORY),
        ("{{ 'x'|center(10**10) }}", MEMORY),
        (GROWING % ("'x'", "n.x ~ n.x"), MEMORY),
        ("{{ 'x' * 1048577 }}", LENGTH),
        ("{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}", LENGTH),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% block b %}{{ self.b() }}{% endblock %}", "RecursionError"),
        (GROWING % ("[]", "[n.x]") + "{{ n.x|tojson }}", f"{TIME}|RecursionError"),
        ("{{ " + "(" * 100_000 + ")" * 100_000 + " }}", f"{TIME}|RecursionError|was killed by SIGSEGV"),
        ("{{ raise_exception('x' * 10**7) }}", "refuses this conversation: x{300}$"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ (''|attr('__class__')).x }}", "SecurityError"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ strftime_now.__self__.x }}", "SecurityError"),
    ],
    ids=lambda text: text[:40],
)
def test_harm_ends_with_a_sentence(source: str, error: str) -> None:
    limits = SHORT if TIME in error else replace(SHORT, max_seconds=20.0)  # on a slow machine, too
    template = ChatTemplate(source, limits=limits)
    with pytest.raises(ChatTemplateError, match=error) as caught:
        template.render(HI)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    template.close()


def test_a_conversation_after_one_that_was_too_much() -> None:
    source = "{% if messages[1] %}" + ENDLESS + "{% elif x %}{{ 'x' * 10**10 }}{% endif %}fine"
    template = ChatTemplate(source, limits=SHORT)
    for _ in range(2):
        assert template.render(HI) == "fine"
        with pytest.raises(ChatTemplateError, match=TIME):
            template.render(HI * 2)
        with pytest.raises(ChatTemplateError, match=MEMORY):
            template.render(HI, x=1)
    assert template.render(HI) == "fine"


def test_one_process_that_ends_with_its_template() -> None:
    before = children()
    template = ChatTemplate("{{ messages[0].content }}")
    assert children() == before  # none before it is needed
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(template.render, map(_saying, range(50))))
    assert texts == [str(number) for number in range(50)]
    (process,) = set(children()) - set(before)
    template.close()
    assert not process.is_running()
    assert template.render(_saying(7)) == "7"
    (process,) = set(children()) - set(before)
    del template
    assert not process.is_running()


def test_an_interrupted_rendering_leaves_no_answer_for_the_next() -> None:
    template = ChatTemplate("{% if messages[1] %}" + ENDLESS + "{% endif %}{{ messages[0].content }}")
    template.render(HI)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            template.render(HI * 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert template.render(_saying(8)) == "8"


def test_a_process_that_something_else_ended() -> None:
    before = children()
    template = ChatTemplate("x")
    template.render(HI)
    (process,) = set(children()) - set(before)
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:  # the kernel needs a moment
        pass
    assert template.render(HI) == "x"


def test_a_process_that_ends_while_it_renders() -> None:
    before = children()
    template = ChatTemplate("{% if messages[1] %}" + ENDLESS + "{% endif %}x")
    template.render(HI)
    (process,) = set(children()) - set(before)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(template.render, HI * 2)
        while process.cpu_times().user < 0.2 and not asked.done():
            pass
        process.kill()
        with pytest.raises(ChatTemplateError, match="chat templates was killed by SIGKILL"):
            asked.result()
    assert template.render(HI) == "x"


def test_it_ends_with_a_process_that_is_killed() -> None:
    program = (
        "import os, psutil\n"
        "from tplaunch.coordinator.text.chat.template import ChatTemplate\n"
        "template = ChatTemplate('x')\n"
        "template.render([{'role': 'user', 'content': ''}])\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    try:
        process = psutil.Process(int(done.stdout))
    except psutil.NoSuchProcess:
        return
    process.wait(timeout=10)


def _saying(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": str(number)}]
