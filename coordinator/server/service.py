"""A loaded model as all protocols see it: it continues texts and answers conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tplaunch.coordinator.ids import new_id
from tplaunch.coordinator.server.answer import NO_CLOCK, Answer, told
from tplaunch.coordinator.server.answer_plan import AnswerPlan, plan_chat, plan_text
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.messages import for_templates
from tplaunch.coordinator.server.rendering import options_of, rendered
from tplaunch.coordinator.server.timing import Clock
from tplaunch.coordinator.server.wanted import ChatRequest, TextRequest
from tplaunch.coordinator.serving.driver import Job
from tplaunch.coordinator.serving.failures import ClosedError
from tplaunch.coordinator.serving.grammar.spec import GrammarError
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.streaming import LoopListener, Stream
from tplaunch.coordinator.text.chat.template import ChatTemplateError
from tplaunch.coordinator.text.tokenizer import TokenizerError

T = TypeVar("T")
LONG_TEXT = 4096  # characters whose tokens are found in another thread: the event loop goes on meanwhile
MAX_OPEN = 1024  # requests at a time


class Service:
    """A loaded model, as protocols see it. It is made and used in one event loop."""

    def __init__(
        self,
        opened: Opened,
        name: str,
        *,
        max_open: int = MAX_OPEN,
        clock: Clock = NO_CLOCK,
        tool_format: str | None = None,
    ) -> None:
        """name: by which clients know the model. max_open: requests that are computed or wait. clock: takes
        the times of answers. tool_format: in which the model writes calls, in place of the template's.
        """
        self.opened, self.name, self._clock = opened, name, clock
        self._tool_format = tool_format
        self._listener = LoopListener(asyncio.get_running_loop())
        self._max_open = max_open
        self._answers: set[Answer] = set()  # that are computed or wait

    @property
    def num_open(self) -> int:
        """The number of requests that are computed or wait."""
        return len(self._answers)

    def end_all(self, reason: str) -> None:
        """Ends them, so that each client is told the reason."""
        for answer in list(self._answers):
            answer.fail(ClosedError(reason))

    async def tokens_of(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Returns the token ids of a text. Raises ApiError."""

        def encode() -> list[int]:
            tokenizer = self.opened.needed_tokenizer()
            return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

        return await _computed(encode, in_thread=len(text) >= LONG_TEXT)

    async def rendered(self, request: ChatRequest) -> tuple[str, list[int]]:
        """Returns a conversation as the model reads it, as text and as token ids. Raises ApiError."""
        checked = replace(request, messages=for_templates(request.messages))
        return await _computed(lambda: rendered(self.opened, checked), in_thread=True)

    async def text(self, request: TextRequest) -> Answer:
        """Begins to continue a prompt. Raises ApiError where it can't be computed."""
        tokens, text = request.prompt, None
        if isinstance(tokens, str):
            text = tokens
            tokens = await self.tokens_of(tokens, add_special=request.add_special)
        has_grammar = request.grammar is not None or request.params.structured_outputs is not None
        plan = await _computed(
            lambda: plan_text(self.opened, request.params, request.grammar), in_thread=has_grammar
        )
        return await self._begin(tokens, plan, request.id, text)

    async def chat(self, request: ChatRequest) -> Answer:
        """Begins to answer a conversation. Raises ApiError where it can't be computed."""
        checked = replace(request, messages=for_templates(request.messages))

        def plan() -> tuple[str, list[int], AnswerPlan]:
            text, tokens = rendered(self.opened, checked)
            options = options_of(checked)
            answers = self.opened.answer_format(options, self._tool_format)
            return text, tokens, plan_chat(self.opened, checked, answers, text, options.tools or ())

        text, tokens, made = await _computed(plan, in_thread=True)
        return await self._begin(tokens, made, request.id, text)

    async def _begin(
        self,
        tokens: Sequence[int],
        plan: AnswerPlan,
        name: str | None,
        text: str | None,
    ) -> Answer:
        if self.num_open >= self._max_open:
            raise ApiError(
                429,
                f"{self.num_open} requests are computed or wait, and no more are taken; try again later",
                kind="rate_limit_exceeded",
            )
        job = Job(
            tokens,
            self.opened.seeded(plan.params),
            self._listener,
            name or f"request-{new_id()}",
            constraint=plan.constraint,
        )
        stream = Stream(self._listener, job)
        answer = Answer(
            self.opened.driver,
            stream,
            text,
            plan.make_reader,
            lambda: self._answers.discard(answer),
            self._clock,
        )
        self._answers.add(answer)
        try:
            self.opened.driver.submit([job])
            await answer.begun()
        except BaseException as error:
            answer.close()
            if isinstance(error, ClosedError):
                raise told(error) from error
            raise
        return answer


async def _computed(make: Callable[[], T], *, in_thread: bool) -> T:
    """Returns what a function makes of a client's words. Raises ApiError for what is wrong with them."""
    try:
        return await asyncio.to_thread(make) if in_thread else make()
    except (RequestError, ChatTemplateError, TokenizerError, GrammarError) as error:
        raise ApiError(400, str(error)) from error
