"""Reads one message as a person types it: a line, or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tplaunch.launcher.prompt import PROMPT

CONTINUED = ". "  # the prompt of further lines
QUOTES = '"""'


@dataclass(frozen=True)
class Typed:
    """A message, or a command where it begins with a slash."""

    text: str
    is_block: bool = False  # between quotes: never a command

    @property
    def is_command(self) -> bool:
        return self.text.startswith("/") and not self.is_block


def read_typed(read: Callable[[str], str]) -> Typed:
    """A line, those that follow one with a backslash at its end, or those between two times three quotes.

    read: gives a line for a prompt, or raises EOFError. The end of input ends what was begun; at its
    beginning it raises EOFError.
    """
    line = read(PROMPT)
    if line.lstrip().startswith(QUOTES):
        return Typed(_block(line.lstrip().removeprefix(QUOTES), read), is_block=True)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        try:
            lines.append(read(CONTINUED))
        except EOFError:
            break
    return Typed("\n".join(lines))


def _block(first: str, read: Callable[[str], str]) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(read(CONTINUED))
        except EOFError:
            return "\n".join(lines).strip("\n")
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")
