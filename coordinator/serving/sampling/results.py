"""Puts together what a step's ranks told of its logits: pure arithmetic, no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import Answer, Wanted
from tplaunch.coordinator.serving.sampling.evidence import Floats, Int32Array, RowEvidence, Wants
from tplaunch.coordinator.split.plan import Span

Bools = npt.NDArray[np.bool_]


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
    counts: npt.NDArray[np.int64]  # candidates of each row
    complete: Bools  # of each row: all other logits are -inf
    sound: Bools  # of each row: no candidate's logit is NaN or +inf; else its candidates are none
    log_sums: npt.NDArray[np.float64]  # of each row, NaN where not wanted
    asked: Floats  # in the order of wanted.asked_ids
    rows: Floats  # [whole rows, vocabulary], not to be written to
    _places: dict[int, int] = field(default_factory=dict)  # of a logit row among the whole ones

    def evidence(self, row: int) -> RowEvidence:
        """Returns what is known of one row, as its sampler asked for it."""
        count = self.counts[row]
        start, stop = np.searchsorted(self.wanted.asked_rows, (row, row + 1))
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
    counts = [answer.counts.astype(np.int64) for answer in answers]
    ids, logits, sound = _candidates(counts, answers, num_rows)
    most = (
        wanted.num_candidates.astype(np.int64) if wanted.num_candidates.size else np.zeros(num_rows, np.int64)
    )
    found = np.minimum(sum(counts), most) if wanted.num_candidates.size else most
    vocabulary_size = slices[-1].stop
    log_sums = np.full(num_rows, np.nan)
    if wanted.sum_rows.size:
        with np.errstate(invalid="ignore"):  # NaN, where logits are no numbers
            log_sums[wanted.sum_rows] = np.logaddexp.reduce([answer.log_sums for answer in answers], axis=0)
    asked = np.zeros(wanted.asked_ids.size, np.float32)
    for answer, span in zip(answers, slices, strict=True):
        asked[_within(wanted.asked_ids, span)] = answer.asked
    parts = [
        whole.reshape(wanted.whole_rows.size, len(span)) for whole, span in zip(wholes, slices, strict=True)
    ]
    width = int(found.max(initial=0))
    return StepResult(
        wanted=wanted,
        ids=ids[:, :width],
        logits=logits[:, :width],
        counts=np.where(sound, found, 0),
        complete=sound & (most > 0) & ((found < most) | (most >= vocabulary_size)),
        sound=sound,
        log_sums=log_sums,
        asked=asked,
        rows=joined_rows(parts),
    )


def joined_rows(parts: Sequence[Floats]) -> Floats:
    """The ranks' slices [rows, slice] side by side; of one rank its own memory."""
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def check_answer(wanted: Wanted, answer: Answer, whole: Floats, vocabulary: Span) -> None:
    """Raises AnswerError where a rank with this slice can't have answered so."""
    size = len(vocabulary)
    expected = {
        "counts": wanted.num_candidates.size,
        "log_sums": wanted.sum_rows.size,
        "asked": int(np.count_nonzero(_within(wanted.asked_ids, vocabulary))),
        "ids": int(answer.counts.sum()),
        "logits": int(answer.counts.sum()),
    }
    for name, count in expected.items():
        found = getattr(answer, name).size
        if found != count:
            raise AnswerError(f"{found} {name} of candidates; expected {count}")
    if whole.size != wanted.whole_rows.size * size:
        raise AnswerError(f"{whole.size} logits; expected {wanted.whole_rows.size} x {size}")
    if np.any(answer.counts < 0) or np.any(answer.counts > np.minimum(wanted.num_candidates, size)):
        raise AnswerError(f"up to {answer.counts.max()} candidates of a row, more than were wanted")
    if not _within(answer.ids, vocabulary).all():
        raise AnswerError(
            f"candidates from {answer.ids.min()} to {answer.ids.max()}; {vocabulary} are its own"
        )


def _candidates(
    counts: list[npt.NDArray[np.int64]], answers: Sequence[Answer], num_rows: int
) -> tuple[Int32Array, Floats, Bools]:
    """The candidates of all ranks [logit rows, candidates] in descending order, -inf behind them.

    And which rows are sound. Ranks' tokens ascend and each rank's candidates are in order, so that a stable
    sort leaves equal logits in the order of their ids.
    """
    if not counts[0].size:
        return (
            np.zeros((num_rows, 0), np.int32),
            np.zeros((num_rows, 0), np.float32),
            np.ones(num_rows, np.bool_),
        )
    tables = [_table(count, answer) for count, answer in zip(counts, answers, strict=True)]
    all_ids = np.concatenate([ids for ids, _ in tables], axis=1)
    all_logits = np.concatenate([logits for _, logits in tables], axis=1)
    sound = ~(np.isnan(all_logits) | np.isposinf(all_logits)).any(axis=1)
    if len(answers) > 1:
        order = np.argsort(-all_logits, axis=1, kind="stable")
        all_ids = np.take_along_axis(all_ids, order, axis=1)
        all_logits = np.take_along_axis(all_logits, order, axis=1)
    return all_ids, all_logits, sound


def _table(counts: npt.NDArray[np.int64], answer: Answer) -> tuple[Int32Array, Floats]:
    """A rank's candidates as a table of a row each; rows with fewer than others end in -inf."""
    num_rows, width = counts.size, int(counts.max(initial=0))
    if answer.ids.size == num_rows * width:
        return answer.ids.reshape(num_rows, width), answer.logits.reshape(num_rows, width)
    ids, logits = np.zeros((num_rows, width), np.int32), np.full((num_rows, width), -np.inf, np.float32)
    is_there = np.arange(width) < counts[:, None]
    ids[is_there], logits[is_there] = answer.ids, answer.logits
    return ids, logits


def _within(ids: Int32Array, span: Span) -> Bools:
    found: Bools = (ids >= span.start) & (ids < span.stop)
    return found


def _ints(values: list[int]) -> Int32Array:
    return np.array(values, np.int32)


def _joined(parts: list[Int32Array]) -> Int32Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
