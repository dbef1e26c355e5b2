"""The base of all ways of writing tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.text.answers.lark import NEWLINE, Lark
from tplaunch.coordinator.text.answers.output import Output
from tplaunch.coordinator.text.answers.source import MalformedError, Reading, Source
from tplaunch.coordinator.text.answers.tools import Tool


@dataclass(frozen=True)
class Context:
    """The text that a syntax reads, the output that it writes to, and the tools by name."""

    source: Source
    output: Output
    tools: dict[str, Tool]

    def tool(self, name: str) -> Tool:
        """The tool of a name. Raises MalformedError where there is none, for such a call is just text."""
        if name not in self.tools:
            raise MalformedError
        return self.tools[name]


class CallSyntax:
    """One way in which models write tool calls."""

    @property
    def begins(self) -> tuple[str, ...]:
        """The markers by which a call begins; none of them lies within another."""
        raise NotImplementedError

    @property
    def bare(self) -> str:
        """The characters by which a call begins without a marker, where nothing stands before it."""
        return ""

    def read(self, mark: str, context: Context) -> Reading[None]:
        """Reads what follows a marker: one call or several, up to what closes them.

        Raises MalformedError where it is no call or ceases to be one; what was taken and not written to the
        output is then given back as text.
        """
        raise NotImplementedError

    def unenforced(self, tool: Tool) -> set[str]:
        """The keywords of a tool's schema that the grammar leaves out."""
        return set()

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """Adds to a grammar and returns what stands for a whole answer of calls of these tools."""
        raise NotImplementedError


@dataclass(frozen=True)
class Wrapped(CallSyntax):
    """Calls that begin and end with markers; several may lie in one section with markers of its own.

    What closes a call or a section may be missing at the answer's end, for models stop there.
    """

    begin: str
    end: str = ""
    section: str = ""
    section_end: str = ""

    @property
    def begins(self) -> tuple[str, ...]:
        """The section's marker and the call's."""
        return tuple(mark for mark in (self.section, self.begin) if mark)

    def read(self, mark: str, context: Context) -> Reading[None]:
        """Reads a section's calls, or one call without a section."""
        source = context.source
        if mark == self.section:
            yield from source.space()
            yield from source.expect(self.begin)
        while True:
            yield from self.read_call(context)
            yield from self.close_call(context)
            if not self.section:
                return
            yield from source.space()
            if (yield from source.accept(self.section_end)):
                return
            if not (yield from source.accept(self.begin)):
                return

    def close_call(self, context: Context) -> Reading[None]:
        """Takes what closes a call, if it is there."""
        if self.end:
            yield from context.source.space()
            yield from context.source.accept(self.end.replace(NEWLINE, ""))

    def without_section(self) -> Wrapped:
        """The same calls without the markers about several of them."""
        return replace(self, section="", section_end="")

    def read_call(self, context: Context) -> Reading[None]:
        """Reads a call behind its marker, up to what closes it."""
        raise NotImplementedError
