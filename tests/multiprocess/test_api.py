"""Programs that use the Python API with real ranks; each leaves nothing behind (the fixture looks)."""

from __future__ import annotations

import json
import re
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.drivers import REPOSITORY
from tests.patience import end_of

# What comes before the programs: two ranks that are quick to load, and greedy texts.
BEGIN = """
    import gc, os, sys, threading, time
    from tplaunch import AsyncLLM, ClosedError, LLM, RunError, SamplingParams
    DEMO = {"demo": True, "devices": "numpy,numpy"}
    GREEDY = SamplingParams(temperature=0, max_tokens=12)
    ENDLESS = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
    def text(outputs): return outputs[0].outputs[0].text
"""
STORY = ", there lived a little girl named Lily. She lived in"


@pytest.fixture
def python(tplaunch: CommandLine) -> CommandLine:
    """Runs Python programs."""
    tplaunch.program = (sys.executable,)
    tplaunch.validate = False  # no option of these programs
    return tplaunch


def run_program(python: CommandLine, program: str, **settings: Any) -> list[str]:
    """The lines that a program prints."""
    source = textwrap.dedent(BEGIN) + textwrap.dedent(program)
    return python("-c", source, check=True, **settings).stdout.splitlines()


def test_the_program_in_the_readme(python: CommandLine) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    lines = python("-c", program, check=True).stdout.splitlines()
    prompts = ["Once upon a time", "The rabbit", "One rainy morning", "In the garden"]
    assert len(lines) == 4
    for prompt, line in zip(prompts, lines, strict=True):
        assert re.fullmatch(rf"Prompt: '{prompt}', Generated text: (['\"]).+\1", line)


@pytest.mark.parametrize("devices", ["0,0", "numpy"])
def test_the_examples(python: CommandLine, tmp_path: Path, devices: str) -> None:
    (tmp_path / "prompts.txt").write_text("Once upon a time\n\nThe dog\n")
    done = python("examples/batch.py", "--devices", devices, "-n", "8", tmp_path / "prompts.txt", check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["prompt"] for one in found] == ["Once upon a time", "The dog"]
    assert all(one["text"] and one["reason"] == "length" for one in found)
    done = python("examples/streaming.py", "--devices", devices, check=True)
    assert "4: enough of this one" in done.stdout and "\n1: Once upon a time" in done.stdout


def test_the_same_text_on_every_device(python: CommandLine) -> None:
    """As the command line has it, alone and among others, by one model and by several at once."""
    lines = run_program(
        python,
        """
        with LLM(**DEMO) as one, LLM(demo=True, tensor_parallel_size=3) as other:
            for llm in (one, other):
                prompts = ["Once upon a time"] + [f"There was a number {number}" for number in range(20)]
                print(text(llm.generate(prompts, GREEDY)))
                print(text(llm.generate("Once upon a time", GREEDY)))
                print(llm.score("Once upon a time", [", there lived", " zebra"])[0].is_greedy)
                print(llm.logits("Once upon a time")[-1].argmax() == llm.encode("Once upon a time,")[-1])
        """,
    )
    assert lines == [STORY, STORY, "True", "True"] * 2


def test_a_program_that_does_not_close(python: CommandLine) -> None:
    """Made in a thread that ends, used in another one, and in the midst of a text at the end."""
    lines = run_program(
        python,
        """
        def load():
            global llm
            llm = LLM(**DEMO)
        thread = threading.Thread(target=load)
        thread.start(); thread.join()
        print(text(llm.generate("Once upon a time", GREEDY)), gc.isenabled())
        def generate():
            try: llm.generate("Once upon a time", ENDLESS)
            except ClosedError: pass
        threading.Thread(target=generate, daemon=True).start()
        while not len(llm._opened.driver.session.requests): time.sleep(0.001)
        """,
    )
    assert lines == [f"{STORY} True"]  # the program's own garbage is still collected


def test_ctrl_c(python: CommandLine) -> None:
    """It ends what is computed, and the model can be used; also while it loads, and with nothing left."""
    lines = run_program(
        python,
        """
        import signal
        def interrupt(is_time):
            while not is_time(): time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        def interrupted(call, is_time):
            threading.Thread(target=interrupt, args=(is_time,)).start()
            try: call()
            except KeyboardInterrupt: print("interrupted")
        handler = signal.getsignal(signal.SIGINT)
        llm = LLM(**DEMO)
        requests = llm._opened.driver.session.requests
        interrupted(lambda: llm.generate(["Once", "upon"], ENDLESS), lambda: len(requests))
        print(text(llm.generate("Once upon a time", GREEDY)), len(requests))
        def workers():
            import psutil
            children = [child.cmdline() for child in psutil.Process().children()]
            return [words for words in children if any(word.startswith("--rank=") for word in words)]
        num = len(workers())
        interrupted(lambda: LLM(**DEMO), lambda: len(workers()) > num)
        print(len(workers()) == num, signal.getsignal(signal.SIGINT) is handler)
        """,
    )
    assert lines == ["interrupted", f"{STORY} 0", "interrupted", "True True"]


def test_an_interrupted_program_ends(python: CommandLine) -> None:
    """Ctrl-C without anybody to catch it, as a terminal gives it to all processes."""
    program = textwrap.dedent(BEGIN) + textwrap.dedent(
        """
        llm = LLM(**DEMO)
        print("loaded", flush=True)
        while True: llm.generate("Once upon a time", ENDLESS)
        """
    )
    process = python.start("-c", program)
    assert process.stdout is not None and process.stdout.readline() == "loaded\n"
    process.send_signal(signal.SIGINT)
    stderr = end_of(process)
    # Python ends itself by SIGINT then; or with 1 where another thread has called exec() since, as for a
    # dataclass of a module that is imported just then (Python/pythonrun.c, unhandled_keyboard_interrupt).
    assert process.returncode in (-signal.SIGINT, 1) and stderr.endswith("KeyboardInterrupt\n")


def test_a_killed_rank_reaches_everyone(python: CommandLine) -> None:
    lines = run_program(
        python,
        """
        import psutil
        llm = LLM(**DEMO)
        errors = []
        def generate():
            try: llm.generate("Once upon a time", ENDLESS)
            except (RunError, ClosedError) as error: errors.append(error)
        threads = [threading.Thread(target=generate) for _ in range(3)]
        for thread in threads: thread.start()
        requests = llm._opened.driver.session.requests
        while not len(requests): time.sleep(0.001)
        (rank,) = [one for one in psutil.Process().children() if "--rank=1" in one.cmdline()]
        rank.kill()
        killed = time.monotonic()
        for thread in threads: thread.join()
        print(*{str(error).partition(" (if")[0] for error in errors}, len(errors))
        print(time.monotonic() - killed < 15, llm._opened.driver.health().state)
        try: llm.generate("Once upon a time")
        except ClosedError as error: print("load it again: rank 1" in str(error))
        for error in errors: print(str(error).partition("its log: ")[2].rstrip(), file=sys.stderr)
        """,
    )
    assert lines == ["rank 1 (numpy) ended: killed by SIGKILL 3", "True ended", "True"]


@pytest.mark.parametrize("fault", ["kill", "suspend"])
def test_ranks_come_back(python: CommandLine, fault: str) -> None:
    """A rank is killed, or stalls, in the middle of greedy and seeded texts; they come as without that."""
    lines = run_program(
        python,
        f"""
        import psutil
        llm = LLM(**DEMO, restart_workers=True, timeout=5, parallel=3)
        driver, states = llm._opened.driver, set()
        ways = [
            SamplingParams(temperature=0, max_tokens=200, ignore_eos=True, prompt_logprobs=0),
            SamplingParams(seed=1, max_tokens=150, ignore_eos=True, n=2, logprobs=1),
            SamplingParams(seed=2, max_tokens=170, ignore_eos=True, repetition_penalty=1.2),
            SamplingParams(seed=3, max_tokens=40),
        ]
        def generate():
            found = llm.generate(["Once upon a time", "The", "Lily and Ben", "One day"], ways)
            return [[(text.token_ids, text.text, text.logprobs) for text in one.outputs] for one in found]
        expected, found = generate(), []
        count = driver.stats().num_generated_tokens
        thread = threading.Thread(target=lambda: found.append(generate()))
        (rank,) = [one for one in psutil.Process().children() if "--rank=1" in one.cmdline()]
        thread.start()
        while driver.stats().num_generated_tokens < count + 30: time.sleep(0.001)
        rank.{fault}()
        while thread.is_alive():
            states.add(driver.health().state)
            thread.join(0.01)
        stats = driver.stats()
        print(found == [expected], *sorted(states - {{"stalled"}}), driver.health().state, stats.num_restarts)
        print(stats.num_generated_tokens == 2 * count)
        llm.close()
        """,
    )
    assert lines == ["True ok restarting ok 1", "True"]


def test_in_an_event_loop_and_in_threads(python: CommandLine) -> None:
    """As in a notebook, where an event loop runs; LLM is not of it, and AsyncLLM may be of several."""
    lines = run_program(
        python,
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        async def last(llm):
            async for output in llm.generate("Once upon a time", GREEDY): pass
            return text([output])
        async def main():
            with LLM(**DEMO) as llm, ThreadPoolExecutor(4) as pool:
                print(text(llm.generate("Once upon a time", GREEDY)))
                if not (child := os.fork()):  # which has no thread to compute in
                    try: llm.generate("Once upon a time", GREEDY)
                    except ClosedError as error: os._exit("another process" not in str(error))
                print(os.waitpid(child, 0)[1])
                found = pool.map(lambda _: text(llm.generate("Once upon a time", GREEDY)), range(8))
                print(set(found))
            async with await asyncio.to_thread(lambda: AsyncLLM(**DEMO)) as llm:
                print(set(await asyncio.gather(*(last(llm) for _ in range(8)))))
                print(await asyncio.to_thread(lambda: asyncio.run(last(llm))))
                async for output in llm.generate("Once upon a time", ENDLESS): break
        asyncio.run(main())
        """,
    )
    assert lines == [STORY, "0", repr({STORY}), repr({STORY}), STORY]


def test_nothing_heavy_is_imported_before_it_is_wanted(python: CommandLine) -> None:
    program = "import sys, tplaunch; print({'numpy', 'zmq', 'asyncio', 'rich', 'typing'} & {*sys.modules})"
    assert python("-c", program, check=True).stdout == "set()\n"
