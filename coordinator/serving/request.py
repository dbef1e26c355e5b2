"""A request with its texts as far as they have come, and the events that a step brings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.picked import Picked

Floats = npt.NDArray[np.float32]


class RequestError(ValueError):
    """A request that can't be computed as it is; the sentence says why. No other request suffers from it."""


@dataclass(frozen=True)
class Reading:
    """A request that generates nothing reads this of its prompt's own logits.

    Log probabilities of the tokens that follow each position, or, where take_row is given, whole rows.
    """

    start: int = 0  # the first position whose logits are read
    following: int | None = None  # the token behind the prompt, whose log probability is read, too
    # Is called in the main loop with each position and its logits [vocabulary], which are its to keep.
    take_row: Callable[[int, Floats], None] | None = None


@dataclass(eq=False)
class Output:
    """One text of a request, as far as it has come."""

    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Picked] = field(default_factory=list)  # where they were asked for
    # stop, length (max_tokens), context (its end), cancelled or error
    finish_reason: str | None = None
    stop_reason: int | str | None = None  # the token or text asked for that ended it


@dataclass
class Times:
    """Seconds and counts of one request. Only steps count: a reader who keeps it waiting does not."""

    prompt_tokens: int
    arrived: float  # as time.perf_counter has it
    cached_tokens: int = 0  # of the prompt, that were not computed
    prompt_seconds: float = 0.0  # of the steps up to the first token of the first text
    decode_seconds: float = 0.0  # of those after it
    finished: float | None = None  # when the last text ended
    counted_until: float = 0.0  # steps may overlap, and their time counts once

    @property
    def computed_tokens(self) -> int:
        """Tokens of the prompt that were computed."""
        return self.prompt_tokens - self.cached_tokens

    def add(self, begin: float, end: float, *, is_decoding: bool) -> None:
        """Counts a step that computed something of the request, from when to when it ran."""
        seconds = end - max(begin, self.counted_until)
        self.counted_until = end
        if is_decoding:
            self.decode_seconds += seconds
        else:
            self.prompt_seconds += seconds


@dataclass(eq=False)
class Request:
    """A prompt, what to make of it, and what was made."""

    id: str
    number: int  # counts requests: a lower one came first
    prompt: tuple[int, ...]
    params: SamplingParams
    constraint: Constraint | None = None
    reading: Reading | None = None  # the prompt is only read, and nothing is generated
    outputs: list[Output] = field(default_factory=list)
    # Of each token; the first has none. Where the prompt is only read: of those behind reading.start.
    prompt_logprobs: list[Picked | None] = field(default_factory=list)
    num_read: int = 0  # positions whose logits were read
    error: ValueError | None = None  # where a finish reason is error

    def __post_init__(self) -> None:
        self.outputs = [Output(index) for index in range(self.params.n)]
        self.times = Times(len(self.prompt), time.perf_counter())
        if self.reading is None and self.params.prompt_logprobs is not None:
            self.prompt_logprobs.append(None)

    @property
    def logits_from(self) -> int | None:
        """The first position of the prompt whose logits are asked for; None for the last one alone."""
        if self.reading is not None:
            return self.reading.start
        return None if self.params.prompt_logprobs is None else 0

    @property
    def is_finished(self) -> bool:
        """Tells whether all of its texts have ended."""
        return all(output.finish_reason is not None for output in self.outputs)


@dataclass(frozen=True)
class Event:
    """The news of one step for one text of a request."""

    request: Request
    index: int  # of the text
    token: int | None  # None where the text ended without another
    text: str  # that may be shown now
    finish_reason: str | None = None
