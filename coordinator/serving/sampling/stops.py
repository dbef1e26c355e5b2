"""Stop texts: where one comes the text ends, and no part of it is shown, however tokens cut it."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.detokenizer import Detokenizer, TokenBytes


class StopMatcher:
    """Is fed a text in pieces, and says which part of it may be shown.

    The text ends where the first stop text is complete, of several that end there at the longest. What may
    be the beginning of one is held back until that is known. How the text is cut makes no difference.
    """

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        """include_stop: the stop text itself is shown, too."""
        self._stops, self._include_stop = tuple(stops), include_stop
        self._held = ""
        self.stopped_at: str | None = None  # the stop text that came

    def push(self, piece: str) -> str:
        """Returns what may be shown now. Nothing is once the text has ended."""
        if self.stopped_at is not None:
            return ""
        text = self._held + piece
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            end, start, self.stopped_at = min(found)
            self._held = ""
            return text[: end if self._include_stop else start]
        num_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown = len(text) - num_held
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Returns what was held back, where the text ends for another reason."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of generated tokens, token by token, up to a stop text."""

    def __init__(self, tokenizer: TokenBytes, params: SamplingParams) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(params.stops, params.include_stop_str_in_output)
        self._num_unchecked = params.min_tokens  # tokens in whose text no stop text counts, as vLLM has it

    @property
    def stopped_at(self) -> str | None:
        """The stop text that has come."""
        return self._matcher.stopped_at

    def push(self, token: int) -> str:
        """Returns what may be shown now: no part of a character or of a stop text.

        Raises TokenizerError for an id outside the vocabulary.
        """
        piece = self._detokenizer.push(token)
        if self._num_unchecked:
            self._num_unchecked -= 1
            return piece
        return self._matcher.push(piece)

    def finish(self) -> str:
        """Returns what is left at the end: held back text, U+FFFD for a character that never became whole."""
        tail = self._detokenizer.finish()
        return self._matcher.push(tail) + self._matcher.finish()


def _overlap(text: str, stop: str) -> int:
    """Counts the characters at the end of the text that may begin the stop text."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
