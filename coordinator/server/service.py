"""A loaded model as all protocols see it: it continues texts and answers conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tplaunch.coordinator.ids import new_id
from tplaunch.coordinator.server.answer import NO_CLOCK, Answer, told
from tplaunch.coordinator.server.answer_plan import AnswerPlan, compiles_grammar, plan_chat, plan_text
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.lanes import FEW_ENTRIES, Lane, Lanes, lane_of, lane_of_texts
from tplaunch.coordinator.server.messages import for_templates
from tplaunch.coordinator.server.rendering import options_of, rendered
from tplaunch.coordinator.server.timing import Clock
from tplaunch.coordinator.server.wanted import ChatRequest, TextRequest
from tplaunch.coordinator.serving.driver import Job
from tplaunch.coordinator.serving.failures import ClosedError
from tplaunch.coordinator.serving.grammar.spec import GrammarError
from tplaunch.coordinator.serving.opened import NoTemplateError, Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.streaming import LoopListener, Stream
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, AnswerFormatError
from tplaunch.coordinator.text.chat.template import ChatTemplateError
from tplaunch.coordinator.text.tokenizer import TokenizerError

T = TypeVar("T")
NO_TEMPLATE = (
    "the model has no chat template, so it answers no messages: /v1/completions continues texts, and"
    " --override-kv tokenizer.chat_template=str:TEXT gives it a template"
)
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
        trusts_templates: bool = False,
    ) -> None:
        """name: by which clients know the model. max_open: requests that are computed or wait. clock: takes
        the times of answers. tool_format: in which the model writes calls, in place of the template's.
        trusts_templates: clients may bring chat templates of their own.
        """
        self.opened, self.name, self._clock = opened, name, clock
        self._tool_format, self._trusts_templates = tool_format, trusts_templates
        self._listener = LoopListener(asyncio.get_running_loop())
        self._max_open = max_open
        self._answers: set[Answer] = set()  # that are computed or wait
        self._lanes = Lanes()

    def close(self) -> None:
        """Gives back the threads in which requests were prepared."""
        self._lanes.close()

    @property
    def num_open(self) -> int:
        """The number of requests that are computed or wait."""
        return len(self._answers)

    def end_all(self, reason: str) -> None:
        """Ends them, so that each client is told the reason."""
        for answer in list(self._answers):
            answer.fail(ClosedError(reason))

    async def tokens_of(
        self, text: str, *, add_special: bool = True, parse_special: bool = False, beside: int = 0
    ) -> list[int]:
        """Returns the token ids of a text. Raises ApiError.

        beside: characters of other texts that come with it; of many short ones none is found at once.
        """

        def encode() -> list[int]:
            tokenizer = self.opened.needed_tokenizer()
            return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

        return await self._computed(encode, lane_of_texts(len(text) + beside))

    async def prepared(self, make: Callable[[], T], *values: Any) -> T:
        """Returns what a function makes of values, in another thread where these are long."""
        lane = lane_of(values)
        return await self._computed(make, None if lane is Lane.QUICK else lane)

    async def written(self, make: Callable[[], T], num_entries: int) -> T:
        """Returns what a function makes of an answer's entries, in another thread where these are many."""
        if num_entries <= FEW_ENTRIES:
            return make()
        return await self._lanes.run(Lane.ANSWER, make)

    async def rendered(self, request: ChatRequest) -> tuple[str, list[int]]:
        """Returns a conversation as the model reads it, as text and as token ids. Raises ApiError."""
        checked = self._checked(request)
        return await self._computed(lambda: rendered(self.opened, checked), _lane_of(checked))

    async def text(self, request: TextRequest) -> Answer:
        """Begins to continue a prompt. Raises ApiError where it can't be computed."""
        tokens, text = request.prompt, None
        if isinstance(tokens, str):
            text = tokens
            tokens = await self.tokens_of(tokens, add_special=request.add_special, beside=request.beside)
        has_grammar = request.grammar is not None or request.params.structured_outputs is not None
        plan = await self._computed(
            lambda: plan_text(self.opened, request.params, request.grammar),
            Lane.GRAMMAR if has_grammar else None,
        )
        return await self._begin(tokens, plan, request.id, text)

    async def chat(self, request: ChatRequest) -> Answer:
        """Begins to answer a conversation. Raises ApiError where it can't be computed."""
        checked = self._checked(request)

        options = options_of(checked)

        def render() -> tuple[str, list[int], AnswerFormat]:
            return *rendered(self.opened, checked), self.opened.answer_format(options, self._tool_format)

        text, tokens, answers = await self._computed(render, _lane_of(checked))
        made = await self._computed(
            lambda: plan_chat(self.opened, checked, answers, text, options.tools or ()),
            Lane.GRAMMAR if compiles_grammar(checked) else None,
        )
        return await self._begin(tokens, made, request.id, text)

    def _checked(self, request: ChatRequest) -> ChatRequest:
        """Returns a conversation in the form that templates take. Raises ApiError."""
        wanted = request.chat_template
        if wanted is not None and not self._trusts_templates and wanted not in self.opened.template_names:
            raise ApiError(
                400,
                "chat_template is a program, which this server runs for clients only with"
                " --trust-request-chat-template; leave it out, or give the name of one of the model's own",
                parameter="chat_template",
            )
        return replace(request, messages=for_templates(request.messages))

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

    async def _computed(self, make: Callable[[], T], lane: Lane | None) -> T:
        """Returns what a function makes of a client's words. Raises ApiError for what is wrong with them.

        lane: of threads, or None for what is done before anybody notices.
        """
        try:
            return make() if lane is None else await self._lanes.run(lane, make)
        except NoTemplateError as error:
            raise ApiError(400, NO_TEMPLATE) from error
        except (RequestError, ChatTemplateError, TokenizerError, GrammarError, AnswerFormatError) as error:
            raise ApiError(400, str(error)) from error


def _lane_of(request: ChatRequest) -> Lane:
    """Returns the lane in which a conversation is rendered."""
    if request.chat_template is not None:
        return Lane.LONG
    return lane_of(request.messages, request.tools, request.template_kwargs)
