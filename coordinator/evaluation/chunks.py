"""Cuts a text into chunks, and reads the logits of each one's second half: llama.cpp's definition.

The whole text is tokenized at once, with a begin token where the model asks for one. Chunks of the context's
length follow one another; what is left at the end is not used. In each chunk the first token is replaced by
the begin token, where the model asks for one, and the tokens behind the positions length // 2 up to the last
but one are scored (llama.cpp, tools/perplexity).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.evaluation.scoring import SCORING
from tplaunch.coordinator.serving.request import Floats, Reading, Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.text.tokenizer import Tokenizer

MIN_LENGTH = 4  # so that one token of a chunk is scored
# Takes a chunk's number, the number of a scored token in it, and the logits from which that was to follow.
TakeRow = Callable[[int, int, Floats], None]


@dataclass(frozen=True)
class Chunks:
    """A text in chunks of equal length. tokens: of all chunks, as the text has them."""

    tokens: Sequence[int]
    length: int
    begin: int | None  # stands in the place of each chunk's first token

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    @property
    def first(self) -> int:
        """The first position of a chunk whose next token is scored."""
        return self.length // 2

    @property
    def num_scored(self) -> int:
        """The tokens of a chunk that are scored."""
        return self.length - 1 - self.first

    def computed(self, index: int) -> list[int]:
        """The tokens of a chunk as the model gets them."""
        chunk = list(self.tokens[index * self.length : (index + 1) * self.length])
        return chunk if self.begin is None else [self.begin, *chunk[1:]]

    def scored_token(self, chunk: int, index: int) -> int:
        """One of the tokens of a chunk that are scored."""
        return self.tokens[chunk * self.length + self.first + 1 + index]


def begin_of_chunks(tokenizer: Tokenizer) -> int | None:
    """The token that begins every chunk, where the model asks for one."""
    return tokenizer.bos_token_id if tokenizer.adds_bos else None


def chunks_of(tokenizer: Tokenizer, text: str, length: int, most: int | None = None) -> Chunks:
    """Returns the chunks of a text, at most so many. Raises RequestError or TokenizerError."""
    if length < MIN_LENGTH:
        raise RequestError(f"a context of {length} has nothing to score; {MIN_LENGTH} tokens are needed")
    tokens = tokenizer.encode(text)
    if len(tokens) < 2 * length:
        shorter = len(tokens) // 2
        hint = f", or --context {shorter}" if shorter >= MIN_LENGTH else ""
        raise RequestError(
            f"the text has {len(tokens)} token{'s' * (len(tokens) != 1)}, and a perplexity with a context of"
            f" {length} needs {2 * length}; take a longer text{hint}"
        )
    count = len(tokens) // length if most is None else min(most, len(tokens) // length)
    return Chunks(tokens[: count * length], length, begin_of_chunks(tokenizer))


def read_chunks(
    requests: Requests, chunks: Chunks, take_row: TakeRow | None = None
) -> Iterator[tuple[int, Request]]:
    """Computes chunks, those together that share steps, and yields each with its number as it ends.

    take_row: gets whole rows, as they come; else each request has the scored tokens' log probabilities.
    """
    numbers: dict[Request, int] = {}
    for index in range(len(chunks)):
        *prompt, last = chunks.computed(index)
        reading = Reading(chunks.first, last, None if take_row is None else _reader(take_row, index, chunks))
        numbers[requests.add(prompt, SCORING, reading=reading)] = index
    while len(requests):
        for event in requests.step():
            if event.request.is_finished:
                if event.request.error is not None:
                    raise event.request.error
                yield numbers[event.request], event.request


def in_order(finished: Iterator[tuple[int, Request]]) -> Iterator[Request]:
    """Yields chunks in the order of their numbers, each as soon as all before it have come."""
    waiting: dict[int, Request] = {}
    awaited = 0
    for index, request in finished:
        waiting[index] = request
        while awaited in waiting:
            yield waiting.pop(awaited)
            awaited += 1


def nlls_of(request: Request) -> list[float]:
    """The negative log-likelihoods of the scored tokens of a chunk that was not read by rows."""
    return [-(one.logprob or 0.0) for one in request.prompt_logprobs if one is not None]


def _reader(take_row: TakeRow, index: int, chunks: Chunks) -> Callable[[int, Floats], None]:
    return lambda position, row: take_row(index, position - chunks.first, row)
