"""The template language of the stories: reads the plot files and expands one template at a time.

It knows brackets, slots and English spelling rules (capitals, "a" or "an"). It does not know what a story is.

    [one|two|]      one of the alternatives, at random; they may be nested
    {hero} {He}     the slot's value; a capital letter asks for a capital
    {thing:cap}     the same, for slots whose value is more than one word

A plot is a block of lines: "== title", then "key: value" lines and "- " sentences ("? " ones are left out
at times). "let a/b: x/y | z/w" binds a and b together, once per story. "scene" and "state" finish a sentence
that begins with the hero; a state ("was afraid of the dark") cannot follow "One day,".
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "plots"
PLOT_FILES = ("helping.txt", "courage.txt", "wonder.txt", "friendship.txt")
PAIR_PLOT_FILES = ("pairs.txt",)

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass
class Plot:
    """One plot: what happens, with slots for whom it happens to."""

    title: str
    hero: str = "any"  # "child", "animal" or "any"
    days: list[str] = field(default_factory=list)
    variables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)
    scenes: list[tuple[bool, str]] = field(default_factory=list)  # (is a state, template)
    sentences: list[tuple[bool, str]] = field(default_factory=list)  # (always told, template)
    morals: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything that may be told, unexpanded."""
        values = [value for _, choices in self.variables for choice in choices for value in choice]
        return " ".join([*values, *(text for _, text in self.scenes + self.sentences), *self.morals])


def alternatives(text: str) -> list[str]:
    """The items between " | "; the bars within brackets have no spaces around them."""
    return [item.strip() for item in text.split(" | ")]


def read_words() -> dict[str, list[str]]:
    """The word lists by name."""
    lines = (FOLDER / "words.txt").read_text(encoding="utf-8").splitlines()
    entries = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name: alternatives(items) for name, items in entries}


def read_plots(names: tuple[str, ...]) -> list[Plot]:
    """All plots of the named files, in their order."""
    plots: list[Plot] = []
    for name in names:
        for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("== "):
                plots.append(Plot(line[3:]))
            elif line and not line.startswith("#"):
                read_line(plots[-1], line)
    return plots


def read_line(plot: Plot, line: str) -> None:
    if line[:2] in ("- ", "? "):
        plot.sentences.append((line[0] == "-", line[2:]))
        return
    key, _, value = (part.strip() for part in line.partition(":"))
    if key == "hero":
        plot.hero = value
    elif key == "day":
        plot.days = alternatives(value)
    elif key in ("scene", "state"):
        plot.scenes.append((key == "state", value))
    elif key == "moral":
        plot.morals.append(value)
    elif key.startswith("let "):
        plot.variables.append((key[4:].split("/"), [item.split("/") for item in alternatives(value)]))
    else:
        raise ValueError(f'plot "{plot.title}": cannot read the line "{line}"')


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def choose(rng: random.Random, template: str) -> str:
    """Replace every bracket, the innermost first, by one of its alternatives."""
    while match := _BRACKETS.search(template):
        pick = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + pick + template[match.end() :]
    return template


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Replace every slot; a slot that nobody bound is an error in the grammar (KeyError)."""

    def value(match: re.Match[str]) -> str:
        name, variant = match.group(1), match.group(2)
        if variant == "cap":
            return capitalised(slots[name])
        if variant:
            return slots[f"{name}:{variant}"]
        return slots[name] if name in slots else capitalised(slots[name.lower()])

    return _SLOT.sub(value, template)


def expand(rng: random.Random, template: str, slots: Mapping[str, str]) -> str:
    """One sentence, or a few, in correct spelling."""
    text = " ".join(fill(choose(rng, template), slots).split())
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])(?!uni|one\b)", r"\1n ", text)
    text = re.sub(r"([.!?] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)
    return capitalised(text)
