"""One text in the making: the sequence that is computed, and what picks, counts and shows its tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tplaunch.coordinator.serving.request import Request, RequestError
from tplaunch.coordinator.serving.sampling.batch import Pick
from tplaunch.coordinator.serving.sampling.evidence import Wants
from tplaunch.coordinator.serving.sampling.picked import Picked, describe, prompt_wants
from tplaunch.coordinator.serving.sampling.pool import LogitsError, NeedsRow
from tplaunch.coordinator.serving.sampling.results import StepResult
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.serving.sampling.stops import TextStream
from tplaunch.coordinator.serving.sequence import ScheduledRows, Sequence
from tplaunch.coordinator.text.detokenizer import WithControlTokens
from tplaunch.coordinator.text.tokenizer import Tokenizer

WHOLE_ROW = Wants(whole_row=True)


class Stream:
    """A text of a request."""

    def __init__(
        self,
        request: Request,
        index: int,
        vocabulary_size: int,
        tokenizer: Tokenizer | None,
        suppressed: Collection[int],
        *,
        assumed: int = 0,
        shares: bool = True,
    ) -> None:
        """Raises RequestError where the request asks for tokens that the vocabulary does not hold."""
        params = request.params
        self.request, self.output = request, request.outputs[index]
        self.sequence = Sequence(
            list(request.prompt),
            logits_from=request.logits_from,
            reads_cache=shares,
            writes_cache=shares,
            assumed=assumed,
        )
        self._own_ends: frozenset[int] = frozenset()
        if tokenizer is not None and not params.ignore_eos:
            self._own_ends = tokenizer.eos_token_ids
        self._ends = self._own_ends.union(params.stop_token_ids or ())
        if request.constraint is not None and request.constraint.needs_end and not self._ends:
            raise RequestError(
                "a grammar needs a token that ends the text, and there is none: leave out ignore_eos,"
                " or name one in stop_token_ids"
            )
        mask = None if request.constraint is None else request.constraint.start(vocabulary_size, self._ends)
        try:
            self.sampler = Sampler(
                params,
                vocabulary_size,
                prompt_ids=request.prompt,
                suppressed=suppressed,
                end_ids=self._ends,
                token_bytes=None if tokenizer is None else tokenizer.token_bytes,
                mask=mask,
                index=index,
            )
        except ValueError as error:
            raise RequestError(str(error)) from None
        self._text = None
        if tokenizer is not None and params.detokenize:
            shown = tokenizer if params.skip_special_tokens else WithControlTokens(tokenizer)
            self._text = TextStream(shown, params)

    @property
    def is_first(self) -> bool:
        """Tells whether this is the first text of its request, and has no tokens yet."""
        return not self.output.index and not self.output.token_ids

    @property
    def is_finished(self) -> bool:
        return self.output.finish_reason is not None

    def pick(self, row: int) -> Pick:
        """Returns the pick of the next token from this row of the step's logits."""
        return Pick(self.sampler, row, len(self.sequence.tokens), self.output.token_ids)

    def wants(self, run: ScheduledRows) -> Iterator[Wants]:
        """Yields the wish for each row with logits of a run."""
        reading, size = self.request.reading, self.sampler.vocabulary_size
        num_top = self.request.params.prompt_logprobs or 0
        for position in self._positions(run):
            if reading is not None and reading.take_row is not None:
                yield WHOLE_ROW
            elif position + 1 < len(self.sequence.tokens):
                yield prompt_wants(self.sequence.tokens[position + 1], num_top, size)
            elif reading is None:
                yield self.sampler.wants(self.output.token_ids)
            elif reading.following is None:
                yield Wants()
            else:
                yield prompt_wants(reading.following, num_top, size)

    def take_rows(self, run: ScheduledRows, result: StepResult, row: int) -> None:
        """Keeps what is asked for of the prompt's own logits; `row` is the run's first in the result.

        A prompt may be computed again, for another text or after a preemption: each position counts once.
        Raises LogitsError where logits are no numbers.
        """
        request = self.request
        if request.logits_from is None:
            return
        for index, position in enumerate(self._positions(run)):
            if position == request.logits_from + request.num_read and position < len(request.prompt):
                self._read(position, result, row + index)
                request.num_read += 1

    def _read(self, position: int, result: StepResult, row: int) -> None:
        """Keeps what is asked for of the logits behind a token of the prompt."""
        request, reading = self.request, self.request.reading
        if reading is not None and reading.take_row is not None:
            whole = result.whole(row)
            assert whole is not None, "a row of logits that was asked for"
            reading.take_row(position, whole.copy())
            return
        if position + 1 < len(request.prompt):
            token = request.prompt[position + 1]
        elif reading is not None and reading.following is not None:
            token = reading.following
        else:
            return
        num_top = request.params.prompt_logprobs or 0
        try:
            picked = describe(result.evidence(row), token, num_top)
        except NeedsRow:  # a prompt's rows tell all but where they are no numbers
            raise LogitsError(
                f"the logits behind token {position + 1} of the prompt are NaN or infinite:"
                " the model's arithmetic went wrong"
            ) from None
        request.prompt_logprobs.append(picked)

    def _positions(self, run: ScheduledRows) -> range:
        stop = run.start + run.length
        return range(stop - run.num_logits, stop)

    def append(self, picked: Picked, context_length: int) -> tuple[int | None, str]:
        """Takes a picked token; returns it, if it is part of the text, and what may be shown now.

        It may end the text.
        """
        token, output = picked.token, self.output
        if token in self._ends:
            output.stop_reason = None if token in self._own_ends else token
            return None, self.finish("stop")
        self.sequence.tokens.append(token)
        output.token_ids.append(token)
        if picked.logprob is not None:
            output.logprobs.append(picked)
        piece = self._text.push(token) if self._text else ""
        output.text += piece
        if self._text and self._text.stopped_at is not None:
            output.stop_reason = self._text.stopped_at
            piece += self.finish("stop")
        elif len(output.token_ids) == self.request.params.max_tokens:
            piece += self.finish("length")
        elif len(self.sequence.tokens) >= context_length:
            piece += self.finish("context")
        return token, piece

    def finish(self, reason: str) -> str:
        """Ends the text; returns what was held back of it."""
        self.output.finish_reason = reason
        rest = self._text.finish() if self._text else ""
        self.output.text += rest
        return rest
