"""Where a text's reasoning begins and ends: a grammar that begins behind it, and a bound on its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from tplaunch.coordinator.serving.grammar.followed import Followed
from tplaunch.coordinator.serving.sampling.constraint import Constraint, ConstraintError, TokenMask
from tplaunch.coordinator.serving.sampling.pool import Bools
from tplaunch.coordinator.text.tokenizer import Tokenizer

BytesOf: TypeAlias = Callable[[int], bytes]
_MAX_LINE_ENDS = 2


@dataclass(frozen=True)
class Markers:
    """The texts between which a model reasons, such as <think> and </think>."""

    begin: str
    end: str
    starts_open: bool  # the prompt has opened the reasoning already

    def __post_init__(self) -> None:
        if not self.end or not (self.begin or self.starts_open):
            raise ValueError("the reasoning needs a text that ends it, and one that begins it")


class Reasoning:
    """How far the reasoning of one text has come; follows its tokens, and begins anew with others.

    Control tokens count by their names; a marker may be cut across tokens anywhere.
    """

    def __init__(self, tokenizer: Tokenizer, markers: Markers) -> None:
        self._shown = _shown(tokenizer)
        self._begin, self._end = markers.begin.encode(), markers.end.encode()
        self._starts_open = markers.starts_open
        self._followed = Followed()
        self._restart()

    def _restart(self) -> None:
        self._followed.clear()
        self.is_open = self._starts_open
        self.is_over = False  # it has ended, or there is none: what comes is the answer
        self.has_been = self._starts_open
        self.begun: bytes = b""  # the start of the marker that begins it, where nothing else has come
        self.first = 0  # of the tokens: the first of the reasoning, or of the answer where that is over
        self.rest = b""  # of the answer, which the token has brought that ended the reasoning
        self._tail = b""  # of the reasoning: where a marker may have begun

    def follow(self, generated: Sequence[int]) -> None:
        """Reads on to the end of these tokens."""
        if not self._followed.goes_on(generated):
            self._restart()
        taken = self._followed.tokens
        while not self.is_over and len(taken) < len(generated):
            taken.append(generated[len(taken)])
            self._take(self._shown(taken[-1]))

    def _take(self, shown: bytes) -> None:
        if self.is_open:
            self._look_for_end(shown)
            return
        self.begun = (self.begun + shown).lstrip()
        if self.begun.startswith(self._begin):
            self.is_open = self.has_been = True
            self.first = len(self._followed.tokens)
            self._look_for_end(self.begun[len(self._begin) :])
        elif not self._begin.startswith(self.begun):
            self.is_over, self.first = True, 0

    def _look_for_end(self, shown: bytes) -> None:
        self._tail += shown
        place = self._tail.find(self._end)
        if place >= 0:
            self.is_open, self.is_over, self.first = False, True, len(self._followed.tokens)
            self.rest = self._tail[place + len(self._end) :]
        else:
            self._tail = self._tail[max(0, len(self._tail) - len(self._end) + 1) :]


@dataclass(frozen=True)
class AfterReasoning:
    """A Constraint: another one, from where the reasoning has ended, or at once where there is none.

    Until then no token may end the text, where the other constraint asks for an end of its own. Behind the
    end a blank line may come, as models write it: readers leave it out.
    """

    constraint: Constraint
    markers: Markers
    tokenizer: Tokenizer = field(repr=False)
    forbidden: frozenset[int] = frozenset()  # tokens that may not stand within the reasoning

    @property
    def needs_end(self) -> bool:
        return self.constraint.needs_end

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> TokenMask:
        """See Constraint."""
        return _MaskAfter(self, vocabulary_size, end_ids)


class _MaskAfter:
    def __init__(self, after: AfterReasoning, vocabulary_size: int, end_ids: frozenset[int]) -> None:
        self._tokenizer, self._markers = after.tokenizer, after.markers
        self._reasoning = Reasoning(after.tokenizer, after.markers)
        self._mask = after.constraint.start(vocabulary_size, end_ids)
        self._size = vocabulary_size
        self._free: Bools | None = None
        forbidden = (end_ids if after.constraint.needs_end else frozenset()) | after.forbidden
        if forbidden:
            self._free = np.ones(vocabulary_size, np.bool_)
            self._free[[token for token in forbidden if token < vocabulary_size]] = False
        self._line_ends = _line_ends(after.tokenizer)

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        reasoning = self._reasoning
        reasoning.follow(generated)
        if reasoning.is_open:
            return self._free
        if reasoning.is_over:
            return self._behind(self._tokens(reasoning.rest), generated[reasoning.first :])
        # Nothing tells yet whether the text begins with reasoning: it may, beside what the answer may be.
        rest = self._markers.begin.encode()[len(reasoning.begun) :].decode("utf-8", "replace")
        nexts = self._tokenizer.encode(rest, add_special=False, parse_special=True)[:1]
        try:
            answer = self._mask.allowed(generated)
        except ConstraintError:  # the marker's own start is none of an answer
            if not generated:
                raise
            answer = np.zeros(self._size, np.bool_)
        if answer is None:
            return None
        table: Bools = answer.copy()
        table[nexts] = True
        return table

    def _behind(self, brought: list[int], generated: Sequence[int]) -> Bools | None:
        """The mask of the answer behind reasoning, and behind a blank line."""
        left, start = _MAX_LINE_ENDS if self._reasoning.has_been else 0, 0
        if brought:
            left = 0
        while left and start < len(generated) and self._line_ends.get(generated[start], left + 1) <= left:
            left -= self._line_ends[generated[start]]
            start += 1
        table = self._mask.allowed([*brought, *generated[start:]])
        if table is None or start < len(generated) or not left:
            return table
        wider: Bools = table.copy()
        wider[[token for token, count in self._line_ends.items() if count <= left]] = True
        return wider

    def _tokens(self, rest: bytes) -> list[int]:
        """The tokens of what the marker's last token brought of the answer, without leading spaces."""
        text = rest.decode("utf-8", "replace").lstrip()
        return self._tokenizer.encode(text, add_special=False) if text else []


@dataclass(frozen=True)
class ReasoningBudget:
    """A Constraint: behind so many tokens of reasoning only the tokens of `closing` may come, one by one.

    closing: the marker's end where it is left empty, else a text with it. 0 tokens close it at once.
    """

    max_tokens: int
    markers: Markers
    tokenizer: Tokenizer = field(repr=False)
    closing: str = ""
    needs_end = False

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise ValueError(f"the reasoning's budget is 0 tokens or more, not {self.max_tokens}")
        if self.closing and self.markers.end not in self.closing:
            raise ValueError(f"the text that closes the reasoning lacks its end, {self.markers.end!r:.40}")

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> TokenMask:
        """See Constraint."""
        return _BudgetMask(self, vocabulary_size)


class _BudgetMask:
    def __init__(self, budget: ReasoningBudget, vocabulary_size: int) -> None:
        self._reasoning = Reasoning(budget.tokenizer, budget.markers)
        self._max_tokens, self._size = budget.max_tokens, vocabulary_size
        text = budget.closing or budget.markers.end
        self._closing = budget.tokenizer.encode(text, add_special=False, parse_special=True)

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        self._reasoning.follow(generated)
        if not self._reasoning.is_open:
            return None
        place = len(generated) - self._reasoning.first - self._max_tokens
        if not 0 <= place < len(self._closing):
            return None
        table = np.zeros(self._size, np.bool_)
        table[self._closing[place]] = True
        return table


@dataclass(frozen=True)
class AllOf:
    """A Constraint: what all of some allow."""

    constraints: Sequence[Constraint]

    @property
    def needs_end(self) -> bool:
        return any(constraint.needs_end for constraint in self.constraints)

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> TokenMask:
        """See Constraint."""
        return _AllMasks([one.start(vocabulary_size, end_ids) for one in self.constraints])


class _AllMasks:
    def __init__(self, masks: Sequence[TokenMask]) -> None:
        self._masks = masks

    def allowed(self, generated: Sequence[int]) -> Bools | None:
        found: Bools | None = None
        for mask in self._masks:
            table = mask.allowed(generated)
            if table is not None:
                found = table if found is None else found & table
        return found


def _line_ends(tokenizer: Tokenizer) -> dict[int, int]:
    """The tokens that are line ends and nothing else, with how many; no more than may come."""
    texts = ["\n" * count for count in range(1, _MAX_LINE_ENDS + 1)]
    # A letter before them: at a text's begin some tokenizers put a space, or leave something out.
    encoded = [tokenizer.encode(f"a{text}", add_special=False) for text in texts]
    found = {token for tokens in encoded for token in tokens}
    shown = {token: tokenizer.token_bytes(token) for token in found}
    return {token: len(text) for token, text in shown.items() if text and not text.strip(b"\n")}


def _shown(tokenizer: Tokenizer) -> BytesOf:
    def shown(token: int) -> bytes:
        if token >= tokenizer.vocabulary_size:
            return b""
        return tokenizer.token_bytes(token) or tokenizer.token_text(token).encode()

    return shown
