"""An answer while it is made, as all protocols see it: what is new of each of its texts, and what it took."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.timing import Clock, NoClock, Timing
from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.failures import ClosedError, RunError
from tplaunch.coordinator.serving.request import Output, RequestError
from tplaunch.coordinator.serving.sampling.constraint import ConstraintError
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.serving.streaming import Stream
from tplaunch.coordinator.text.answers.pieces import Content, Piece

# Our reasons in the words of the field; a reason that is not here stays as it is.
REASONS = {"context": "length"}
NO_CLOCK = NoClock()


class Reader(Protocol):
    """Parts an answer's text into what it says, what it thinks, and the tools that it calls."""

    @property
    def num_calls(self) -> int:
        """The number of calls that it has found."""

    @property
    def is_reasoning(self) -> bool:
        """Tells whether the text so far ends inside reasoning."""

    def push(self, text: str) -> Sequence[Piece]:
        """Returns what is certain by now."""

    def finish(self) -> Sequence[Piece]:
        """Returns the rest, at the text's end."""


class PlainReader:
    """Takes all text for content."""

    num_calls = 0
    is_reasoning = False

    def push(self, text: str) -> Sequence[Piece]:
        return [Content(text)] if text else []

    def finish(self) -> Sequence[Piece]:
        return ()


@dataclass(frozen=True)
class Delta:
    """The news of one text."""

    index: int
    pieces: Sequence[Piece]
    tokens: Sequence[int]
    logprobs: Sequence[Picked]  # of these tokens, where they were asked for
    finish_reason: str | None = None  # stop, length, tool_calls or cancelled
    stop_reason: int | str | None = None  # of those asked for, the token or text that ended it


@dataclass(frozen=True)
class Usage:
    """The tokens that an answer took."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, that were not computed again
    completion_tokens: int
    reasoning_tokens: int  # of the completion's


class Answer:
    """The texts that come of one request. All is called in one event loop; close() ends what still runs."""

    def __init__(
        self,
        driver: Driver,
        stream: Stream,
        prompt_text: str | None,
        make_reader: Callable[[], Reader] = PlainReader,
        on_close: Callable[[], None] = lambda: None,
        clock: Clock = NO_CLOCK,
    ) -> None:
        self.prompt_text = prompt_text
        self._driver, self._stream, self._on_close = driver, stream, on_close
        self._texts = [_Text(output, make_reader()) for output in stream.heard]
        self._is_open = True
        self._timing = Timing(clock)

    @property
    def prompt(self) -> Sequence[int]:
        """The prompt's token ids."""
        return self._stream.job.prompt

    @property
    def prompt_logprobs(self) -> Sequence[Picked | None]:
        """The log probabilities of the prompt's tokens, where asked for; complete with the first delta."""
        request = self._stream.job.request
        return () if request is None else request.prompt_logprobs

    @property
    def usage(self) -> Usage:
        """The tokens taken so far."""
        request = self._stream.job.request
        cached = 0 if request is None else request.times.cached_tokens
        generated = sum(len(text.output.token_ids) for text in self._texts)
        reasoning = sum(text.num_reasoning for text in self._texts)
        return Usage(len(self.prompt), cached, generated, reasoning)

    async def begun(self) -> None:
        """Returns once the request waits for its turn. Raises ApiError where it can't be computed."""
        try:
            await self._stream.begun()
        except (RequestError, RunError, ClosedError) as error:
            raise told(error) from error

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yields what is new until all texts have ended; who is slow gets more at once. Raises ApiError."""
        while not all(text.is_told for text in self._texts):
            try:
                await self._stream.wait()
            except (RequestError, RunError, ClosedError) as error:
                raise told(error) from error
            for text in self._texts:
                delta = text.news()
                if delta is None:
                    continue
                self._timing.take(delta.index, len(delta.tokens), delta.finish_reason)
                if delta.finish_reason == "error":
                    raise self._failure()
                yield delta

    def close(self) -> None:
        """Ends the request, if it has not ended, and forgets it. Closing again does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._stream.close()
        request = self._stream.job.request
        if request is None or not request.is_finished:  # else it would only be woken
            self._driver.cancel([self._stream.job])
        if request is not None:
            self._timing.end(len(self._texts))
        self._on_close()

    def fail(self, error: Exception) -> None:
        """Ends the request; who iterates over deltas is told why."""
        self._driver.cancel([self._stream.job])
        self._stream.fail(error)

    def _failure(self) -> ApiError:
        request = self._stream.job.request
        error = None if request is None else request.error
        reason = "the request failed" if error is None else self._driver.session.explain(error)
        if isinstance(error, ConstraintError):  # the client's own, as is what it rules out
            return ApiError(400, reason)
        return ApiError(500, reason, kind="server_error")


class _Text:
    """One text, and how much of it was told."""

    def __init__(self, output: Output, reader: Reader) -> None:
        self.output = output
        self.num_reasoning = 0
        self.is_told = False
        self._reader = reader
        self._num_characters = self._num_tokens = 0

    def news(self) -> Delta | None:
        """Returns what is new since the last call; None where nothing is."""
        output = self.output
        if self.is_told or (len(output.token_ids) == self._num_tokens and output.finish_reason is None):
            return None
        was_reasoning = self._reader.is_reasoning
        pieces = [*self._reader.push(output.text[self._num_characters :])]
        reason = output.finish_reason
        if reason is not None:
            pieces += self._reader.finish()
            self.is_told = True
            reason = REASONS.get(reason, reason)
            if reason == "stop" and self._reader.num_calls:
                reason = "tool_calls"
        tokens = output.token_ids[self._num_tokens :]
        logprobs = output.logprobs[self._num_tokens :]
        if was_reasoning or self._reader.is_reasoning:
            self.num_reasoning += len(tokens)
        self._num_characters, self._num_tokens = len(output.text), len(output.token_ids)
        return Delta(output.index, pieces, tokens, logprobs, reason, output.stop_reason)


def told(error: Exception) -> ApiError:
    """Returns what a client is told of an error of the request, or of the run."""
    if isinstance(error, RequestError):
        return ApiError(400, str(error))
    return ApiError(503, str(error), kind="server_error")
