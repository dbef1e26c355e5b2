"""The main loop of everything that generates: requests come in, steps run, and events go out.

    schedule -> run on all ranks -> sample every row that has logits -> events

With several stages the next steps are on their way while one is waited for.
Requests share steps. Each has its own parameters, random numbers and errors, and the bits of its logits do
not depend on the others. Whoever owns a Requests makes all its calls from one thread at a time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf

from tplaunch.coordinator.serving.counts import Counts
from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.flights import Flight, Flights
from tplaunch.coordinator.serving.kv_memory import KVMemory, LayerKinds
from tplaunch.coordinator.serving.prompt_check import check_prompt, check_reading
from tplaunch.coordinator.serving.request import Event, Reading, Request, RequestError
from tplaunch.coordinator.serving.sampling.batch import Pick, pick_all
from tplaunch.coordinator.serving.sampling.constraint import Constraint, ConstraintError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.serving.sampling.results import Gatherer, StepResult
from tplaunch.coordinator.serving.scheduler import Scheduler, make_step
from tplaunch.coordinator.serving.sequence import ScheduledRows, Sequence
from tplaunch.coordinator.serving.stream import Stream
from tplaunch.coordinator.text.tokenizer import Tokenizer


class Requests:
    """All requests of an engine, from `add` to their last event."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None = None,
        suppressed: Collection[int] = (),
    ) -> None:
        """tokenizer: without one there are tokens and no text. suppressed: tokens that are never picked."""
        self._engine, self._limits, self._tokenizer = engine, engine.limits, tokenizer
        self._suppressed = frozenset(suppressed)
        self.counts = Counts()
        self.memory = KVMemory(engine.limits, LayerKinds.of(engine.spec), engine.tells_prompts_apart)
        self._scheduler = Scheduler(engine.limits, self.memory, self.counts, engine.micro_batches)
        self._streams: dict[Sequence, Stream] = {}
        self._gatherers = [Gatherer() for _ in range(engine.num_stages)]  # whose steps take turns
        self._requests: dict[str, Request] = {}
        self._num_requests = 0
        self._flights = Flights()

    def __len__(self) -> int:
        """The number of requests that have not ended."""
        return len(self._requests)

    def numbers(self) -> tuple[dict[int, int], set[int]]:
        """How many texts run of each request that runs, and which requests have texts that wait, by number.

        Any thread may call this.
        """
        running, waiting = self._scheduler.arrivals()
        return dict(Counter(number for number, _ in running)), {number for number, _ in waiting}

    def rank_microseconds(self) -> list[dict[str, float]]:
        """Each rank's time in steps by kind. Any thread may call this."""
        return self._engine.spent()

    def add(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        *,
        id: str | None = None,
        constraint: Constraint | None = None,
        reading: Reading | None = None,
        assumed: int = 0,
        shares: bool = True,
    ) -> Request:
        """Takes a prompt of token ids; the following steps bring its events. Raises RequestError.

        constraint: rules out tokens of each text. reading: read the logits of the prompt, and generate
        nothing. shares: take from the prefix cache and leave something there. assumed: take so many positions
        for computed, whatever the cache holds there, to measure what comes behind them; it can't share.
        """
        self._num_requests += 1
        name = id or f"request-{self._num_requests}"
        request = Request(name, self._num_requests, tuple(prompt), params, constraint, reading)
        if request.id in self._requests:
            raise RequestError(f"a request {request.id!r} is running; another one needs another id")
        self.check(request.prompt, params, constraint, reading)
        stream = self._stream(request, 0, assumed=assumed, shares=shares)
        self._requests[request.id] = request
        self._start(stream)
        return request

    def check(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Raises RequestError for what `add` would refuse."""
        assert constraint or not params.structured_outputs, "it is compiled by who asks"
        spec, length = self._engine.spec, self._limits.context_length
        check_prompt(prompt, spec, length, continues=reading is None)
        if reading is not None:
            check_reading(reading, len(prompt), spec)

    def cancel(self, id: str) -> None:
        """Ends a request at once and gives back all that it holds; one that has ended is left alone."""
        request = self._requests.get(id)
        if request is not None:
            self._end_all(request, "cancelled")

    def step(self) -> list[Event]:
        """Runs one step of all that wait for one, and returns what it has brought; [] where nothing waits.

        With several stages others are sent first, as many as can be under way.
        """
        self.send()
        events = self._collect() if self._flights else []
        self.land()
        return events

    def send(self) -> None:
        """Has the ranks begin what the next `step` waits for, while the caller does other things."""
        while self._streams and len(self._flights) < self._engine.most_in_flight and self._send():
            pass

    def land(self) -> None:
        """Waits for steps on their way where all texts have ended: else idle time would count as theirs."""
        while self._flights and not self._streams:
            self._collect()

    def _send(self) -> bool:
        """Has the ranks compute the next step; False where all wait for one that runs."""
        begin = time.perf_counter()
        runs = self._scheduler.schedule()
        if not runs:
            return False
        streams = [self._streams[run.sequence] for run in runs]
        wants = [want for stream, run in zip(streams, runs, strict=True) for want in stream.wants(run)]
        is_decoding = {stream.request: not stream.is_first for stream in streams}
        number = self._engine.next_number
        self._flights.add(Flight(number, runs, streams, is_decoding, begin))
        wanted = self._gatherers[number % len(self._gatherers)].gather(wants)
        self._engine.submit(make_step(number, runs, self.memory, wanted))
        self._scheduler.finish(runs)
        return True

    def _collect(self) -> list[Event]:
        """Waits for the first step that was sent, and returns what it has brought."""
        flight = self._flights.first
        result = self._engine.collect(flight.number)
        events = self._take(flight.runs, flight.streams, result)
        self._flights.finish_first(self.counts)
        return events

    def take_in_step(self) -> Collection[Request]:
        """Returns the requests whose steps have failed, once."""
        return self._flights.take_failed()

    def take_over(self, other: Requests) -> None:
        """Goes on with the requests of another one, whose ranks are gone, from the tokens that they have.

        This one has none of its own. The step in which the ranks failed has changed no text.
        """
        self.counts, self._num_requests, self._requests = other.counts, other._num_requests, other._requests
        self._engine.take_over(other._engine)
        self._scheduler = Scheduler(self._limits, self.memory, self.counts, self._engine.micro_batches)
        to_fork = {stream.request for stream in other._streams.values() if stream.is_first}
        for sequence, stream in other._streams.items():
            if stream.request in to_fork and not stream.is_first:
                continue  # it had just begun, and will again
            sequence.lose_memory()
            self._streams[sequence] = stream
            self._scheduler.add(sequence)

    def _take(
        self, runs: SequenceOf[ScheduledRows], streams: SequenceOf[Stream], result: StepResult
    ) -> list[Event]:
        """Hands each text its rows with logits, and lets those go on whose last token was computed.

        No text ends or grows before all that is needed of the ranks is there: they may fail.
        """
        failed: dict[Request, LogitsError] = {}
        ended: list[Stream] = []
        going_on: list[Stream] = []
        picks: list[Pick] = []
        row = 0
        for run, stream in zip(runs, streams, strict=True):
            first, row = row, row + run.num_logits
            if stream.is_finished:  # since the step was sent
                continue
            try:
                stream.take_rows(run, result, first)
            except LogitsError as error:
                failed.setdefault(stream.request, error)
            if stream.request in failed or run.start + run.length < len(run.sequence.tokens):
                continue
            if stream.request.reading is not None:
                ended.append(stream)
            else:
                for one in self._forked(stream):
                    going_on.append(one)
                    picks.append(one.pick(row - 1))
        all_picked = pick_all(picks, result, self._engine.fetch)
        events = [event for request, error in failed.items() for event in self._fail(request, error)]
        events += [self._end(stream, "length") for stream in ended]
        for stream, picked in zip(going_on, all_picked, strict=True):
            if stream.is_finished:  # with another text of its request, whose logits are no numbers
                continue
            if isinstance(picked, Picked):
                events.append(self._go_on(stream, picked))
            else:
                events += self._fail(stream.request, picked)
        return events

    def _forked(self, stream: Stream) -> Iterator[Stream]:
        """The text, and where it has computed the prompt of several, the others that go on from there."""
        yield stream
        if not stream.is_first:
            return
        stream.request.times.cached_tokens = stream.sequence.num_cached
        for index in range(1, stream.request.params.n):
            other = self._stream(stream.request, index)
            if stream.sequence.is_running and self.memory.fork(stream.sequence, other.sequence):
                self._start(other, is_running=True)
                yield other
            else:
                self._start(other)  # it finds in the cache what is still there of the prompt

    def _go_on(self, stream: Stream, picked: Picked) -> Event:
        """Appends a token to a text, which may end by it."""
        token, text = stream.append(picked, self._limits.context_length)
        self.counts.num_generated_tokens += token is not None
        if stream.is_finished:
            self._release(stream)
        return Event(stream.request, stream.output.index, token, text, stream.output.finish_reason)

    def _end(self, stream: Stream, reason: str, *, forget: bool = False) -> Event:
        """Ends a text before its time. forget: nothing that it computed may be found by others."""
        text = stream.finish(reason)
        self._release(stream, forget=forget)
        return Event(stream.request, stream.output.index, None, text, reason)

    def _fail(self, request: Request, error: LogitsError) -> list[Event]:
        """Ends a request with all of its texts: its logits are no numbers, or a text can't go on."""
        request.error = request.error or error
        return self._end_all(request, "error", forget=not isinstance(error, ConstraintError))

    def _end_all(self, request: Request, reason: str, *, forget: bool = False) -> list[Event]:
        streams = [stream for stream in self._streams.values() if stream.request is request]
        begun = {stream.output.index for stream in streams}
        for output in request.outputs:
            if output.index not in begun:
                output.finish_reason = output.finish_reason or reason
        return [self._end(stream, reason, forget=forget) for stream in streams]

    def _stream(self, request: Request, index: int, *, assumed: int = 0, shares: bool = True) -> Stream:
        return Stream(
            request,
            index,
            self._engine.spec.vocabulary_size,
            self._tokenizer,
            self._suppressed,
            assumed=assumed,
            shares=shares,
        )

    def _start(self, stream: Stream, *, is_running: bool = False) -> None:
        stream.sequence.arrival = stream.request.number, stream.output.index
        self._streams[stream.sequence] = stream
        if is_running:
            self._scheduler.add_running(stream.sequence)
        else:
            self._scheduler.add(stream.sequence)

    def _release(self, stream: Stream, *, forget: bool = False) -> None:
        """Gives back what a text holds; the request has ended with the last of them."""
        del self._streams[stream.sequence]
        self._scheduler.remove(stream.sequence, forget=forget)
        request = stream.request
        if request.is_finished:
            request.times.finished = time.perf_counter()
            del self._requests[request.id]
