"""Penalties on tokens for what the text already holds: how often a token came, and which repetition it ends.

Both look at the prompt and at what was generated. They keep no state but for what saves work.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.pool import Ids, Logits, Places, Pool
from tplaunch.coordinator.serving.sampling.repetitions import Text, repetitions
from tplaunch.coordinator.text.vocabulary import TokenizerError

TokenBytes = Callable[[int], bytes]
MAX_LOG = 88.7228391  # log of the largest float32, where llama.cpp ends DRY's growth


class Penalty(ABC):
    """A change of the logits of some tokens, found once for a number of generated tokens."""

    _found: tuple[int, Ids, Logits] | None = None  # for so many generated tokens

    def ids(self, generated: Sequence[int]) -> Ids:
        """The tokens that are penalised, ascending."""
        return self.penalties(generated)[0]

    def penalties(self, generated: Sequence[int]) -> tuple[Ids, Logits]:
        """The tokens that are penalised, ascending, and what is taken from the logit of each."""
        if self._found is None or self._found[0] != len(generated):
            self._found = (len(generated), *self._find(generated))
        return self._found[1:]

    @abstractmethod
    def _find(self, generated: Sequence[int]) -> tuple[Ids, Logits]: ...


class Repetition(Penalty):
    """The repetition, presence and frequency penalties, as llama.cpp has them.

    A token that came before has its logit divided by the repetition penalty where positive and multiplied
    where not (Keskar et al. 2019, arXiv:1909.05858), then lowered by the presence penalty, and by the
    frequency penalty for each time that it came.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._factor = params.repetition_penalty
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._last_n = params.repeat_last_n
        self._prompt = prompt_ids
        # Counts of all tokens so far, as long as repeat_last_n holds them.
        self._all: Counter[int] = Counter(
            prompt_ids if self._last_n < 0 or self._last_n >= len(prompt_ids) else ()
        )
        self._num_counted = 0
        self.raises = self._factor < 1 or self._presence < 0 or self._frequency < 0

    def apply(self, pool: Pool, generated: Sequence[int]) -> Pool:
        ids, lowered = self.penalties(generated)
        if not ids.size:
            return pool

        def change(places: Places, logits: Logits) -> Logits:
            repeated: Logits = np.where(logits <= 0, logits * self._factor, logits / self._factor)
            repeated -= lowered[places]
            return repeated

        return pool.changed(ids, change, np.full(ids.size, self.raises))

    def _find(self, generated: Sequence[int]) -> tuple[Ids, Logits]:
        counts = self._counts(generated)
        ids = sorted(counts)
        lowered = np.array([counts[token] for token in ids], np.float64)
        return np.array(ids, np.int64), lowered * self._frequency + self._presence

    def _counts(self, generated: Sequence[int]) -> Counter[int]:
        num_tokens = len(self._prompt) + len(generated)
        if 0 <= self._last_n < num_tokens:
            return Counter(last_tokens(self._prompt, generated, self._last_n))
        self._all.update(generated[self._num_counted :])
        self._num_counted = len(generated)
        return self._all


class Dry(Penalty):
    """DRY ("don't repeat yourself", p-e-w, text-generation-webui pull request 5677), as llama.cpp has it.

    A token that would go on with a repetition of m tokens is lowered by multiplier * base ** (m - allowed
    length), from the allowed length on. A repetition is counted back to the last token in which a sequence
    breaker ends; a token that holds one is not lowered.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], token_bytes: TokenBytes | None
    ) -> None:
        """token_bytes: of every token; without it no token breaks a repetition."""
        self._multiplier, self._base = params.dry_multiplier, params.dry_base
        self._allowed_length = params.dry_allowed_length
        self._last_n = params.dry_penalty_last_n
        self._breakers = tuple(text.encode() for text in params.dry_sequence_breakers)
        self._token_bytes = token_bytes
        self._prompt = prompt_ids
        self._text = Text(prompt_ids)
        self._breaking: dict[int, bool] = {}  # whether a token holds a breaker, as far as it was asked
        self._last_break = 0  # tokens up to and with the last one in which a breaker ends
        self._num_looked = 0  # at for breakers
        self._tail = b""  # of the text looked at: what a breaker may have begun with
        # A longer repetition costs no more.
        growth = math.log(self._base)
        self._longest = self._allowed_length + (int(MAX_LOG / growth) if growth > 1e-6 else 0)

    def apply(self, pool: Pool, generated: Sequence[int]) -> Pool:
        ids, lowered = self.penalties(generated)
        if not ids.size:
            return pool
        return pool.changed(
            ids, lambda places, logits: logits - lowered[places], np.zeros(ids.size, np.bool_)
        )

    def _find(self, generated: Sequence[int]) -> tuple[Ids, Logits]:
        lengths = self._repetitions(generated)
        ids = np.array(sorted(token for token in lengths if not self._breaks(token)), np.int64)
        exponents = np.array([lengths[token] for token in ids.tolist()], np.float64)
        return ids, self._multiplier * self._base ** (exponents - self._allowed_length)

    def _repetitions(self, generated: Sequence[int]) -> dict[int, int]:
        """Each token that would go on with a repetition -> the tokens that the longest such one has."""
        num_tokens = len(self._prompt) + len(generated)
        window = num_tokens if self._last_n < 0 else min(self._last_n, num_tokens)
        most = min(num_tokens - self._look_for_breakers(generated), self._longest, window - 1)
        if most < max(1, self._allowed_length):
            return {}
        text = self._text.grown(len(self._prompt), generated)[num_tokens - window :]
        return repetitions(text, self._allowed_length, most)

    def _look_for_breakers(self, generated: Sequence[int]) -> int:
        """The tokens up to and with the last one in which a breaker ends."""
        num_tokens = len(self._prompt) + len(generated)
        if self._token_bytes is not None and self._breakers:
            new = last_tokens(self._prompt, generated, num_tokens - self._num_looked)
            pieces = [self._tail, *map(self._piece, new)]
            text = b"".join(pieces)
            ended = (text.rfind(breaker) + len(breaker) for breaker in self._breakers if breaker in text)
            end = max(ended, default=0)
            if end > len(self._tail):
                ends = list(accumulate(map(len, pieces)))
                self._last_break = self._num_looked + bisect.bisect_left(ends, end)
            longest = max(map(len, self._breakers))
            self._tail = text[max(0, len(text) - longest + 1) :]
        self._num_looked = num_tokens
        return self._last_break

    def _breaks(self, token: int) -> bool:
        found = self._breaking.get(token)
        if found is None:
            piece = self._piece(token)
            found = self._breaking[token] = any(breaker in piece for breaker in self._breakers)
        return found

    def _piece(self, token: int) -> bytes:
        """The token's text; nothing for a token without, as padding of the vocabulary is."""
        if self._token_bytes is None:
            return b""
        try:
            return self._token_bytes(token)
        except TokenizerError:
            return b""


def last_tokens(prompt: Sequence[int], generated: Sequence[int], count: int) -> list[int]:
    """The last `count` tokens of the prompt and what was generated behind it."""
    if count <= len(generated):
        return list(generated[len(generated) - count :])
    return [*prompt[max(0, len(prompt) + len(generated) - count) :], *generated]
