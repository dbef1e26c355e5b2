"""Puts together what a step's ranks told of its logits: pure arithmetic, no sockets."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.candidates import wants_only_likeliest
from tplaunch.coordinator.messages import Answer, Wanted
from tplaunch.coordinator.serving.sampling.candidate_tables import Bools, candidates_of
from tplaunch.coordinator.serving.sampling.evidence import (
    NO_LOGITS,
    Floats,
    Int32Array,
    RowEvidence,
    Wants,
)
from tplaunch.coordinator.split.plan import Span

NO_ROWS: Floats = np.zeros((0, 0), np.float32)
FEW = 64  # candidates


class AnswerError(ValueError):
    """An answer that does not fit what was wanted; the sentence says how."""


@dataclass(frozen=True)
class StepResult:
    """The known part of each logit row of a step.

    A row's candidates are the likeliest tokens of the whole vocabulary in order, of equals the lowest id
    first: what is not among them has a logit of at most the last one's.
    """

    wanted: Wanted
    ids: Int32Array  # [logit rows, most candidates]; behind a row's candidates anything
    logits: Floats  # the same
    counts: Int32Array  # candidates of each row
    complete: Bools  # of each row: all other logits are -inf
    sound: Bools  # of each row: no candidate's logit is NaN or +inf; else its candidates are none
    log_sums: npt.NDArray[np.float64]  # of each row, NaN where not wanted
    asked: Floats  # in the order of wanted.asked_ids
    rows: Floats  # [whole rows, vocabulary], not to be written to
    _places: dict[int, int] = field(default_factory=dict)  # of a logit row among the whole ones

    def evidence(self, row: int) -> RowEvidence:
        """Returns what is known of one row, as its sampler asked for it."""
        count, asked_rows, start, stop = self.counts[row], self.wanted.asked_rows, 0, 0
        if asked_rows.size:
            start, stop = asked_rows.searchsorted((row, row + 1)).tolist()
        return RowEvidence(
            ids=self.ids[row, :count],
            logits=self.logits[row, :count],
            complete=bool(self.complete[row]),
            sound=bool(self.sound[row]),
            log_sum=float(self.log_sums[row]),
            asked_ids=self.wanted.asked_ids[start:stop],
            asked_logits=self.asked[start:stop],
        )

    def whole(self, row: int) -> Floats | None:
        """All logits of a row [vocabulary], where they were wanted."""
        if not self._places:
            self._places.update((row, place) for place, row in enumerate(self.wanted.whole_rows.tolist()))
        place = self._places.get(row)
        return None if place is None else self.rows[place]


class Gatherer:
    """Makes one message of what the samplers of a step's logit rows want, in the rows' order.

    The rows of a step mostly want the very same as those of the step before.
    """

    def __init__(self) -> None:
        self._wants: Sequence[Wants] = ()
        self._wanted = Wanted()

    def gather(self, wants: Sequence[Wants]) -> Wanted:
        """Takes the wishes of all logit rows of a step."""
        if len(wants) != len(self._wants) or not all(map(operator.is_, wants, self._wants)):
            self._wants, self._wanted = wants, gather(wants)
        return self._wanted


def gather(wants: Sequence[Wants]) -> Wanted:
    """Makes one message of what the samplers of a step's logit rows want, in the rows' order."""
    asked = [(row, want.ids) for row, want in enumerate(wants) if want.ids.size]
    return Wanted(
        num_candidates=_ints([want.num_candidates for want in wants]),
        sum_rows=_ints([row for row, want in enumerate(wants) if want.log_sum]),
        asked_rows=_joined([np.full(ids.size, row, np.int32) for row, ids in asked]),
        asked_ids=_joined([ids for _, ids in asked]),
        whole_rows=_ints([row for row, want in enumerate(wants) if want.whole_row]),
    )


def every_row(num_rows: int) -> Wanted:
    """All logits of so many logit rows."""
    return Wanted(whole_rows=np.arange(num_rows, dtype=np.int32))


def merge(
    wanted: Wanted, num_rows: int, answers: Sequence[Answer], wholes: Sequence[Floats], slices: Sequence[Span]
) -> StepResult:
    """The ranks' answers and whole rows (each flat) as those of the whole vocabulary.

    slices: the ranks' tokens, ascending. The answers have passed check_answer.
    """
    if wants_only_likeliest(wanted):
        merged = _merge_likeliest(wanted, answers, slices[-1].stop)
        if merged is not None:
            return merged
    most, num_found = wanted.num_candidates, sum(answer.counts for answer in answers)
    if not most.size:
        most = num_found = np.zeros(num_rows, np.int32)
    ids, logits, sound = candidates_of(answers, num_rows)
    counts = np.minimum(num_found, most)
    width = int(counts.max(initial=0))
    complete = (most > 0) & ((counts < most) | (most >= slices[-1].stop))
    log_sums = np.full(num_rows, np.nan)
    if wanted.sum_rows.size:
        with np.errstate(invalid="ignore"):  # NaN, where logits are no numbers
            log_sums[wanted.sum_rows] = np.logaddexp.reduce([answer.log_sums for answer in answers], axis=0)
    return StepResult(
        wanted=wanted,
        ids=ids[:, :width],
        logits=logits[:, :width],
        counts=np.where(sound, counts, 0),
        complete=complete & sound,
        sound=sound,
        log_sums=log_sums,
        asked=_asked(wanted, answers, slices) if wanted.asked_ids.size else NO_LOGITS,
        rows=_whole_rows(wanted, wholes, slices) if wanted.whole_rows.size else NO_ROWS,
    )


def _merge_likeliest(wanted: Wanted, answers: Sequence[Answer], vocabulary_size: int) -> StepResult | None:
    """The same where only the likeliest token of each row is wanted, in less time.

    None where a rank names none of a row, or one whose logit is no number.
    """
    num_rows, best = wanted.num_candidates.size, []
    named = [list(zip(answer.logits.tolist(), answer.ids.tolist())) for answer in answers]
    for candidates in zip(*named):
        if not all(logit < math.inf for logit, _ in candidates):  # NaN is not
            return None
        best.append(max(candidates, key=_logit))  # of equals the first rank's, whose ids are lower
    if any(len(one) != num_rows for one in named):
        return None
    complete, sound, log_sums = _known_of_likeliest(num_rows, vocabulary_size == 1)
    return StepResult(
        wanted=wanted,
        ids=np.array([[token] for _, token in best], np.int32),
        logits=np.array([[logit] for logit, _ in best], np.float32),
        counts=wanted.num_candidates,
        complete=complete,
        sound=sound,
        log_sums=log_sums,
        asked=NO_LOGITS,
        rows=NO_ROWS,
    )


@functools.lru_cache
def _known_of_likeliest(num_rows: int, is_complete: bool) -> tuple[Bools, Bools, npt.NDArray[np.float64]]:
    """Tells of each row if its likeliest token is the only one, that it is a number, and no sum."""
    found = np.full(num_rows, is_complete), np.full(num_rows, True), np.full(num_rows, math.nan)
    for array in found:
        array.setflags(write=False)  # many results share them
    return found


def _logit(candidate: tuple[float, int]) -> float:
    return candidate[0]


def _asked(wanted: Wanted, answers: Sequence[Answer], slices: Sequence[Span]) -> Floats:
    """The asked tokens' logits, each from the rank that has it."""
    asked = np.zeros(wanted.asked_ids.size, np.float32)
    for answer, span in zip(answers, slices, strict=True):
        asked[_within(wanted.asked_ids, span)] = answer.asked
    return asked


def _whole_rows(wanted: Wanted, wholes: Sequence[Floats], slices: Sequence[Span]) -> Floats:
    num_rows = wanted.whole_rows.size
    return joined_rows(
        [whole.reshape(num_rows, len(span)) for whole, span in zip(wholes, slices, strict=True)]
    )


def joined_rows(parts: Sequence[Floats]) -> Floats:
    """The ranks' slices [rows, slice] side by side; of one rank its own memory."""
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def check_answer(wanted: Wanted, answer: Answer, whole: Floats, vocabulary: Span) -> None:
    """Raises AnswerError where a rank with this slice can't have answered so."""
    size, counts = len(vocabulary), answer.counts.tolist()
    num_candidates = sum(counts)
    num_asked = np.count_nonzero(_within(wanted.asked_ids, vocabulary)) if wanted.asked_ids.size else 0
    for name, array, count in (
        ("counts", answer.counts, wanted.num_candidates.size),
        ("log_sums", answer.log_sums, wanted.sum_rows.size),
        ("asked", answer.asked, num_asked),
        ("ids", answer.ids, num_candidates),
        ("logits", answer.logits, num_candidates),
    ):
        if array.size != count:
            raise AnswerError(f"{array.size} {name} of candidates; expected {count}")
    if whole.size != wanted.whole_rows.size * size:
        raise AnswerError(f"{whole.size} logits; expected {wanted.whole_rows.size} x {size}")
    if not all(
        0 <= count <= most and count <= size
        for count, most in zip(counts, wanted.num_candidates.tolist(), strict=True)
    ):
        raise AnswerError(f"up to {max(counts)} candidates of a row, more than were wanted")
    if not _are_within(answer.ids, vocabulary):
        raise AnswerError(
            f"candidates from {answer.ids.min()} to {answer.ids.max()}; {vocabulary} are its own"
        )


def _are_within(ids: Int32Array, span: Span) -> bool:
    """Tells whether all are. A few are looked at without NumPy, which takes longer then."""
    if ids.size <= FEW:
        return all(span.start <= token < span.stop for token in ids.tolist())
    return bool(_within(ids, span).all())


def _within(ids: Int32Array, span: Span) -> Bools:
    found: Bools = (ids >= span.start) & (ids < span.stop)
    return found


def _ints(values: list[int]) -> Int32Array:
    return np.array(values, np.int32)


def _joined(parts: list[Int32Array]) -> Int32Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
