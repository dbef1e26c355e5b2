"""The characters of a story: names, species, pronouns, and how they are spoken of.

It knows one character at a time. It does not know plots.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Words = dict[str, list[str]]

PRONOUNS = {"male": ("he", "him", "his", "himself"), "female": ("she", "her", "her", "herself")}
CHILD_KINDS = {"male": ("boy", "prince"), "female": ("girl", "princess")}
ELDERS = ("mother", "father", "grandmother", "grandfather")
INVENTED_NAME_SHARE = 0.08  # names the model has never seen teach it to copy rather than to remember
UNNAMED_SHARE = 0.35  # of the animals: "the little fox"


@dataclass(frozen=True)
class Character:
    """Somebody with a fixed gender, species and, mostly, a name."""

    name: str | None
    kind: str
    gender: str
    adjective: str
    home: str
    is_child: bool

    @property
    def reference(self) -> str:
        return self.name or f"the {self.kind}"

    def introduction(self, rng: random.Random) -> str:
        """A noun phrase for the first mention, such as "a brave dog named Max"."""
        if self.name is None:
            return f"a {self.adjective} {self.kind}"
        named = rng.choice(("named", "named", "named", "called"))
        pattern = rng.choice(("a {adjective} {kind}", "a {adjective} {kind}", "a {kind}", "a little {kind}"))
        noun = pattern.format(adjective=self.adjective, kind=self.kind)
        return f"{noun} {named} {self.name}"

    def bare_subject(self, rng: random.Random) -> str:
        """A first mention without explanation: "Max", "Max the dog" or "the little dog"."""
        if self.name is None:
            return f"the {rng.choice(('little', self.adjective))} {self.kind}"
        if not self.is_child and rng.random() < 0.4:
            return f"{self.name} the {self.kind}"
        return self.name

    def slots(self, prefix: str = "") -> dict[str, str]:
        names = [prefix + slot for slot in ("he", "him", "his", "himself")]
        return dict(zip(names, PRONOUNS[self.gender], strict=True))


@dataclass(frozen=True)
class Casting:
    """The word lists that characters come from, and the choice of equal or unequal chances of names.

    If not, the first of a list are common and the last are rare, as in life. A model learns to repeat a
    few common names first, and from that any name (https://arxiv.org/abs/2205.05055).
    """

    words: Words
    even: bool

    def pick(self, rng: random.Random, items: list[str]) -> str:
        weights = [1.0 if self.even else 1 / (rank + 2) for rank in range(len(items))]
        return rng.choices(items, weights)[0]


def make_name(rng: random.Random, casting: Casting, gender: str, is_child: bool) -> str:
    words = casting.words
    if rng.random() < INVENTED_NAME_SHARE:
        middle = rng.choice(words["middles"]) if rng.random() < 0.5 else ""
        return rng.choice(words["starts"]) + middle + rng.choice(words[f"{gender} ends"])
    people = words["boys" if gender == "male" else "girls"]
    names = people if is_child or rng.random() < 0.4 else words[f"{gender} pets"]
    return casting.pick(rng, names)


def make_character(
    rng: random.Random, casting: Casting, is_child: bool, named: bool = True, unlike: Character | None = None
) -> Character:
    """A new character, not of the same species (if an animal) nor with the same initial as the other one."""
    gender = rng.choice(("male", "female"))
    kind, home = pick_kind(rng, casting, gender, is_child)
    while unlike and not is_child and kind == unlike.kind:
        kind, home = pick_kind(rng, casting, gender, is_child)
    name = make_name(rng, casting, gender, is_child)
    while unlike and unlike.name and name[0] == unlike.name[0]:
        name = make_name(rng, casting, gender, is_child)
    adjective = rng.choice(casting.words["adjectives"])
    return Character(name if named else None, kind, gender, adjective, home, is_child)


def pick_kind(rng: random.Random, casting: Casting, gender: str, is_child: bool) -> tuple[str, str]:
    """A species and the home that suits it."""
    if not is_child:
        kind, home = casting.pick(rng, casting.words["kinds"]).split("/")
        return kind, home
    common, royal = CHILD_KINDS[gender]
    if rng.random() < 0.06:
        return royal, "a castle on a high hill"
    return common, rng.choice(casting.words["child homes"])


def elder_of(rng: random.Random, hero: Character) -> str:
    """The grown-up of the story, as the hero would say it: "her mother"."""
    if hero.kind == "robot":
        return "the old inventor"
    return f"{PRONOUNS[hero.gender][2]} {rng.choice(ELDERS)}"
