"""A recorded program, in submissions that are as long as the device's budget was when it was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.work import pieces, total_operations
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.recorder import Recorder
from tplaunch.worker.vulkan.timeline import Recorded, Submission, Timeline
from tplaunch.worker.vulkan.timestamps import Timestamps


@dataclass(frozen=True)
class Prepared:
    """A recorded program. It holds the program, so that no other gets its id."""

    program: Program
    recorded: Recorded
    submission: Submission
    operations: float  # that a step with all rows has at least, however few keys they see
    budget: float  # operations of a submission at most
    timestamps: Timestamps | None

    @property
    def last_segment(self) -> int:
        """The segment at whose end the step has ended."""
        return len(self.program.segments) - 1


def prepared(
    recorder: Recorder,
    program: Program,
    context: DispatchContext,
    timestamps: Timestamps | None,
    timeline: Timeline,
    budget: float,
) -> Prepared:
    """Records a program in submissions of at most `budget` operations, with as many keys as there may be."""
    num_keys = context.limits.context_length
    recorded = recorder.record(
        program,
        context,
        timestamps,
        timeline.end_word,
        lambda segment: pieces(segment, program, num_keys, budget),
    )
    submission = timeline.submission(recorded)
    return Prepared(program, recorded, submission, total_operations(program, 0), budget, timestamps)
