"""AsyncLLM on a fake session: outputs that grow, many at a time, and all ways to leave before the end."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fake_session import FakeRun, fake_opened
from tplaunch import (
    AsyncLLM,
    ClosedError,
    GenerationError,
    RequestError,
    RequestOutput,
    RunError,
    SamplingParams,
)

pytestmark = pytest.mark.unit

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
ECHO = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Gate:
    """Holds the driver before a step, so that a text does not end before a test has looked at it."""

    def __init__(self, run: FakeRun) -> None:
        assert run.session is not None
        self._may_step = threading.Condition()
        self._left = math.inf  # steps that may run
        requests = run.session.requests
        self._step = requests.step

        def step() -> list[Any]:
            with self._may_step:
                assert self._may_step.wait_for(lambda: self._left > 0, 30)
                self._left -= 1
            return self._step()

        requests.step = step  # type: ignore[method-assign]

    def shut(self, after: int = 0) -> None:
        """Lets so many more steps run: the first one brings a text of a short prompt its first token."""
        self._let(after)

    def open(self) -> None:
        self._let(math.inf)

    def _let(self, steps: float) -> None:
        with self._may_step:
            self._left = steps
            self._may_step.notify()


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def llm(run: FakeRun) -> Iterator[AsyncLLM]:
    made = AsyncLLM.of(fake_opened(run))
    yield made
    made.close()
    assert run.has_ended


@pytest.fixture
def gate(run: FakeRun, llm: AsyncLLM) -> Iterator[Gate]:
    made = Gate(run)
    yield made
    made.open()


async def everything(llm: AsyncLLM, *tokens: int, params: SamplingParams = GREEDY) -> list[RequestOutput]:
    return [output async for output in llm.generate(tokens or (5, 6), params)]


def num_open(run: FakeRun) -> int:
    assert run.session is not None
    return len(run.session.requests)


def run_async(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


def test_outputs_grow(llm: AsyncLLM) -> None:
    async def main() -> None:
        params = SamplingParams(temperature=0, max_tokens=5, n=2, logprobs=1, ignore_eos=True)
        outputs = await everything(llm, params=params)
        for before, after in itertools.pairwise(outputs):
            for early, late in zip(before.outputs, after.outputs, strict=True):
                assert late.token_ids[: len(early.token_ids)] == early.token_ids
                assert late.text.startswith(early.text)
                assert early.logprobs is not None and len(early.logprobs) == len(early.token_ids)
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert [one.finish_reason for one in outputs[-1].outputs] == ["length"] * 2
        assert [len(one.token_ids) for one in outputs[-1].outputs] == [5, 5]

    run_async(main)


def test_many_at_a_time_are_as_alone(llm: AsyncLLM) -> None:
    async def last(number: int) -> list[int]:
        return (await everything(llm, number, number + 1))[-1].outputs[0].token_ids

    async def main() -> None:
        together = await asyncio.gather(*map(last, range(3, 40)))
        assert together == [await last(number) for number in range(3, 40)]

    run_async(main)


def test_a_reader_who_is_slow_misses_no_text(llm: AsyncLLM) -> None:
    async def main() -> None:
        outputs = []
        async for output in llm.generate([5, 6], GREEDY):
            outputs.append(output)
            if len(outputs) == 1:
                await everything(llm, 9, params=ENDLESS)
        assert len(outputs) <= 2 and len(outputs[-1].outputs[0].token_ids) == 5

    run_async(main)


def test_leaving_the_loop_ends_the_request(llm: AsyncLLM, run: FakeRun, gate: Gate) -> None:
    async def main() -> None:
        gate.shut(after=1)
        async for _ in llm.generate([5, 6], ENDLESS, request_id="one"):
            break
        await asyncio.sleep(0)  # the generator is closed in the event loop
        gate.open()
        assert len(await everything(llm, 7)) and not num_open(run)
        assert llm._streams == {} and not llm._listener(asyncio.get_running_loop()).streams
        outputs = llm.generate([5, 6], ENDLESS)
        await anext(outputs)
        await outputs.aclose()
        assert len(await everything(llm, 7)) and not num_open(run)

    run_async(main)


def test_cancelling_the_task_ends_the_request(llm: AsyncLLM, run: FakeRun, gate: Gate) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        gate.shut(after=1)

        async def read() -> None:
            async for _ in llm.generate([5, 6], ENDLESS):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert len(await everything(llm, 7)) and not num_open(run)

    run_async(main)


@pytest.mark.parametrize("has_begun", [True, False])
def test_abort(llm: AsyncLLM, run: FakeRun, gate: Gate, has_begun: bool) -> None:
    async def main() -> None:
        outputs = llm.generate([5, 6], ENDLESS, request_id="one")
        if has_begun:
            gate.shut(after=1)
            before = await anext(outputs)
            await asyncio.to_thread(llm.abort, ["one", "another"])
        else:
            gate.shut()
            other = llm.generate([9], ENDLESS)
            busy = asyncio.create_task(anext(other))
            waiting = asyncio.create_task(anext(outputs))
            while not llm._streams:
                await asyncio.sleep(0)
            llm.abort("one")
            last = await waiting
            busy.cancel()
        if has_begun:
            *_, last = [output async for output in outputs]
            assert len(last.outputs[0].token_ids) >= len(before.outputs[0].token_ids) > 0
        assert last.finished and last.outputs[0].finish_reason == "abort" and last.request_id == "one"
        assert last.prompt_token_ids == [5, 6]
        assert [output async for output in outputs] == []
        gate.open()
        assert len(await everything(llm, 7)) and not num_open(run)
        llm.abort("one")  # nobody has it any more

    run_async(main)


def test_an_id_is_taken_once_at_a_time(llm: AsyncLLM, gate: Gate) -> None:
    async def last() -> RequestOutput:
        *_, output = [output async for output in llm.generate([5, 6], GREEDY, request_id="one")]
        return output

    async def main() -> None:
        gate.shut()
        busy = asyncio.create_task(everything(llm, 7))
        both = [asyncio.create_task(last()) for _ in range(2)]
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(RequestError, match=r"^a request .one. is running; another one needs another id$"):
            await both[1]
        assert (await both[0]).outputs[0].finish_reason == "length"
        assert (await last()).request_id == "one"
        await busy

    run_async(main)


def test_errors(llm: AsyncLLM, run: FakeRun) -> None:
    async def main() -> None:
        assert run.channel is not None
        for tokens, sentence in (((99_999,), "the prompt has the token 99999"), ((1,) * 64, "with context ")):
            with pytest.raises(RequestError, match=sentence):
                await everything(llm, *tokens)
        with pytest.raises(RequestError, match="of type dict, not SamplingParams"):
            await everything(llm, params={})  # type: ignore[arg-type]
        run.channel.spoil_rows = {0}
        with pytest.raises(GenerationError, match=r"^\d+ of \d+ logits are NaN") as raised:
            await everything(llm, params=SamplingParams(n=3, max_tokens=2))
        (output,) = raised.value.outputs
        assert [one.finish_reason for one in output.outputs] == ["error"] * 3
        run.channel.spoil_rows = set()
        run.channel.failing[1] = "out of memory"
        found = await asyncio.gather(everything(llm, 5), everything(llm, 6), return_exceptions=True)
        assert {type(error) for error in found} <= {RunError, ClosedError}
        assert all("rank 1 failed: out of memory" in str(error) for error in found)

    run_async(main)


def test_closing_ends_what_is_waited_for(run: FakeRun) -> None:
    async def main() -> None:
        async with AsyncLLM.of(fake_opened(run)) as llm:
            gate = Gate(run)
            outputs = llm.generate([5, 6], ENDLESS)
            gate.shut(after=1)
            await anext(outputs)
            closing = asyncio.create_task(asyncio.to_thread(llm.close))
            gate.open()
            with pytest.raises(ClosedError, match="the model was closed"):
                async for output in outputs:
                    assert not output.finished
            await closing
        with pytest.raises(ClosedError, match="load it again"):
            await everything(llm)

    run_async(main)


def test_several_event_loops(llm: AsyncLLM) -> None:
    def in_a_loop(number: int) -> list[int]:
        return asyncio.run(everything(llm, number))[-1].outputs[0].token_ids

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(in_a_loop, range(3, 15)))
    assert found == [in_a_loop(number) for number in range(3, 15)]
    asyncio.run(everything(llm))
    assert len(llm._listeners) == 1  # those of closed loops are forgotten


def test_a_loop_that_was_closed_harms_nobody(llm: AsyncLLM, run: FakeRun, gate: Gate) -> None:
    loop = asyncio.new_event_loop()
    outputs = llm.generate([5, 6], ENDLESS, request_id="one")
    gate.shut(after=1)
    loop.run_until_complete(outputs.__anext__())
    loop.close()
    llm.abort("one")
    gate.open()
    assert len(asyncio.run(everything(llm, 7)))
    while num_open(run):
        asyncio.run(everything(llm, 7))


def test_chat_and_long_prompts(llm: AsyncLLM) -> None:
    async def main() -> None:
        asks = [{"role": "user", "content": "Once upon a time"}]
        *_, last = [output async for output in llm.chat(asks, GREEDY, chat_template=ECHO)]
        assert last.prompt == "Once upon a time"
        with pytest.raises(RequestError, match="no chat template"):
            await anext(llm.chat(asks))
        with pytest.raises(RequestError, match="tokens, and the context of 64"):
            await anext(llm.generate("a dog " * 2000))

    run_async(main)
