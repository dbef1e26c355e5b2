"""The markers between which a model writes its reasoning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningMarkers:
    """begin and end: what the model writes before and behind its reasoning."""

    begin: str
    end: str

    def is_open(self, prompt_end: str) -> bool:
        """Tells from a rendered prompt's end if the answer begins within reasoning."""
        return prompt_end.rstrip().endswith(self.begin.rstrip())

    def is_in(self, text: str) -> bool:
        """Tells from a text that holds a template and control tokens if a model uses these markers."""
        return self.end in text

    def is_closed(self, prompt_end: str) -> bool:
        """Tells from a rendered prompt's end if reasoning has been closed there, so that there is none."""
        return prompt_end.rstrip().endswith(self.end.rstrip())


# Which of them a model uses is told by the first whose end its template or its control tokens hold.
KNOWN = tuple(
    ReasoningMarkers(begin, end)
    for begin, end in (
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("<think>", "</think>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
    )
)
