"""AsyncLLM: a loaded model for programs with an event loop, such as servers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from tplaunch.coordinator.serving.driver import Job
from tplaunch.coordinator.serving.opened import ChatOptions, Opened
from tplaunch.coordinator.serving.request import Request, RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.streaming import LoopListener, Stream
from tplaunch.launcher.keywords import in_keywords
from tplaunch.loaded import LoadedModel
from tplaunch.outputs import GenerationError, RequestOutput, request_output
from tplaunch.prompts import Conversation, Prompt, named, parameters_of, tokens_of

A = TypeVar("A", bound="AsyncLLM")
Read: TypeAlias = "tuple[str | None, Sequence[int]]"  # a text, where there is one, and its token ids
LONG_TEXT = 4096  # characters whose tokens are found in another thread: the event loop goes on meanwhile


class AsyncLLM(LoadedModel):
    """A model on its devices, whose answers are iterated over while they are computed.

    Many may be at a time, in any number of event loops and threads: they share steps. A text that nobody
    iterates over any more is no longer computed: where the loop over it is left, or its task is cancelled.
    Loading blocks; `await asyncio.to_thread(AsyncLLM, "model.gguf")` loads beside a running event loop.
    """

    def _attach(self, opened: Opened) -> None:
        super()._attach(opened)
        self._listeners: dict[asyncio.AbstractEventLoop, LoopListener] = {}
        self._streams: dict[str, list[Stream]] = {}  # by id, those that are iterated over
        self._lock = threading.Lock()  # for both

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Continues a prompt; iterates over all that has come of it so far, each time that there is more.

        prompt: a text, token ids, {"prompt": text} or {"prompt_token_ids": ids}. request_id: by which abort
        finds it, and which no other has that is computed. Who is slow misses none of the text, only steps
        between.

        Raises RequestError where it can't be computed, GenerationError where it fails later, with what came
        of it in `outputs`; RunError where a rank fails; ClosedError.
        """

        async def read() -> Read:
            if isinstance(prompt, str) and len(prompt) < LONG_TEXT:
                return tokens_of(self._opened, prompt)
            return await asyncio.to_thread(tokens_of, self._opened, prompt)

        return self._generate(read, sampling_params, request_id)

    def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answers a conversation; iterates as generate does. The arguments are those of LLM.chat."""
        options = ChatOptions(
            add_generation_prompt, continue_final_message, chat_template, chat_template_kwargs, tools
        )
        return self._generate(
            lambda: asyncio.to_thread(self._opened.rendered, messages, options), sampling_params, request_id
        )

    def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests by their ids; who iterates over one gets what it has come to, with the reason abort.

        Any thread may call this. An id that is not computed is left alone.
        """
        with self._lock:
            for name in [request_id] if isinstance(request_id, str) else request_id:
                for stream in self._streams.get(name, ()):
                    with contextlib.suppress(RuntimeError):  # its event loop is closed
                        stream.abort()

    async def _generate(
        self, read: Callable[[], Awaitable[Read]], params: SamplingParams | None, request_id: str | None
    ) -> AsyncGenerator[RequestOutput, None]:
        with named(0, is_only=True):
            text, tokens = await read()
            (params,) = parameters_of(params, 1)
            constraint = None
            if params.structured_outputs is not None:
                constraint = await asyncio.to_thread(self._opened.constraint, params)
        listener = self._listener(asyncio.get_running_loop())
        job = Job(tokens, self._opened.seeded(params), listener, request_id, constraint=constraint)
        stream = Stream(listener, job)
        if request_id is not None:
            with self._lock:
                self._streams.setdefault(request_id, []).append(stream)
        try:
            self._opened.driver.submit([stream.job])
            is_over = False
            while not is_over:
                try:
                    await stream.wait()
                except RequestError as error:
                    raise RequestError(in_keywords(str(error))) from error
                # One that was aborted before it began is made up.
                request = stream.job.request or Request(request_id or "", 0, tuple(tokens), stream.job.params)
                output = request_output(request, stream.heard, text, self._opened.tokenizer)
                is_over = output.finished
                if request.error is not None and is_over:
                    reason = self._opened.driver.session.explain(request.error)
                    raise GenerationError(reason, [output]) from request.error
                yield output
        finally:
            stream.close()
            self._opened.driver.cancel([stream.job])
            if request_id is not None:
                with self._lock:
                    self._streams[request_id].remove(stream)
                    if not self._streams[request_id]:
                        del self._streams[request_id]

    def _listener(self, loop: asyncio.AbstractEventLoop) -> LoopListener:
        """Returns the listener of an event loop, and forgets those of loops that are closed."""
        with self._lock:
            for other in [other for other in self._listeners if other.is_closed()]:
                del self._listeners[other]
            return self._listeners.setdefault(loop, LoopListener(loop))
