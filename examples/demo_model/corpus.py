"""Writes the stories: picks a plot and a cast, an opening that introduces them, and tells the plot.

It knows what a story is made of. It does not know tokens or models. The same seed gives the same stories.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from examples.demo_model.cast import (
    ELDERS,
    PRONOUNS,
    UNNAMED_SHARE,
    Casting,
    Character,
    Words,
    elder_of,
    make_character,
)
from examples.demo_model.grammar import (
    PAIR_PLOT_FILES,
    PLOT_FILES,
    Plot,
    capitalised,
    choose,
    expand,
    fill,
    read_plots,
    read_words,
)

PAIR_SHARE = 0.22
OPTIONAL_SENTENCE_SHARE = 0.5
NEW_FRIEND_SHARE = 0.65
HOME_SHARE = 0.4
TRAIT_SHARE = 0.5
CLOSING_SHARE = 0.15
THE_END_SHARE = 0.1

# {intro} presents the hero ("a brave dog named Max"), {bare} does not ("Max"), {again} is a later mention.
OPENINGS = {
    "[Once upon a time, there|Once upon a time there|Once upon a time, there] [{was}|lived] {two}. "
    "{about} {Day}, {again} {scene}.": 16,
    "Once upon a time, {land}, there lived {two}. {about} {Day}, {again} {scene}.": 5,
    "Once upon a time, {intro} lived {home}. {Day}, {again} {scene}.": 4,
    "Once upon a time, {intro} {scene}.": 4,
    "[Long ago|Once|A long time ago], there [{was}|lived] {two}. {about} {Day}, {again} {scene}.": 4,
    "[There {was} once|There once {was}|There {was}|Once there {was}] {two}. "
    "{about} {Day}, {again} {scene}.": 7,
    "[There {was} once|There once {was}] {twowho} lived {home}. {Day}, {again} {scene}.": 3,
    "{Land}, there lived {two}. {about} {Day}, {again} {scene}.": 7,
    "{Day}, {intro} {scene}.": 11,
    "{Day}, {bare} {scene}.": 7,
    "{Bare} {scene}.": 11,
    "{Intro} {scene}.": 5,
    "{Bare} lived {home}. {about} {Day}, {again} {scene}.": 4,
    "{Isa} {about} {Day}, {again} {scene}.": 6,
    "{weather} {Bare} {scene}.": 3,
    "{weather} {Intro} {scene}.": 2,
    "This is [the story of|a story about] {intro}. {about} {Day}, {again} {scene}.": 3,
}


def siblings(first: Character, second: Character) -> str:
    if first.gender != second.gender:
        return "brother and sister"
    return "brothers" if first.gender == "male" else "sisters"


def weather(day: str) -> str:
    """The day as a sentence of its own: "one rainy day" becomes "It was a rainy day."."""
    if not day.startswith("one "):
        return "It was early in the morning."
    rest = day.removeprefix("one ")
    return f"It was a {rest}." if " " in rest else f"It was a beautiful {rest}."


def words_to_remember() -> set[str]:
    """The words by which a story shows that it knows what it is about: who, and the plot's own variables."""
    words = read_words()
    names = {name for key in ("boys", "girls", "male pets", "female pets") for name in words[key]}
    kinds = {kind.split("/")[0] for kind in words["kinds"]}
    pronouns = {word for forms in PRONOUNS.values() for word in forms}
    plots = read_plots(PLOT_FILES + PAIR_PLOT_FILES)
    values = {
        word for plot in plots for _, choices in plot.variables for choice in choices for word in choice
    }
    in_plots = {word for value in values for word in re.findall(r"[a-z]{4,}", value)} - {"that", "with"}
    return names | kinds | set(ELDERS) | in_plots | pronouns | {capitalised(word) for word in pronouns}


class StoryWriter:
    """Tells one story after another, none of them twice."""

    def __init__(self, seed: int, even: bool = False) -> None:
        self.rng = random.Random(seed)
        self.words: Words = read_words()
        self.casting = Casting(self.words, even)
        self.plots = read_plots(PLOT_FILES)
        self.pair_plots = read_plots(PAIR_PLOT_FILES)
        self.told: set[str] = set()

    def stories(self, count: int) -> Iterator[str]:
        while count:
            story = self.tell_pair() if self.happens(PAIR_SHARE) else self.tell_single()
            if story not in self.told:
                self.told.add(story)
                count -= 1
                yield story

    def happens(self, share: float) -> bool:
        return self.rng.random() < share

    def tell_single(self) -> str:
        plot = self.rng.choice(self.plots)
        is_child = plot.hero == "child" or (plot.hero == "any" and self.rng.random() < 0.45)
        hero = make_character(self.rng, self.casting, is_child, named=self.rng.random() > UNNAMED_SHARE)
        if hero.name is None and (is_child or "{call}" in plot.text or hero.kind in plot.text):
            hero = make_character(self.rng, self.casting, is_child)  # "the cat" must not be two cats
        friend = make_character(self.rng, self.casting, is_child and self.rng.random() < 0.75, unlike=hero)
        slots = self.bind(plot, hero, friend)
        slots |= self.phrases_for_single(hero)
        return self.finish(plot, slots, "")

    def tell_pair(self) -> str:
        plot = self.rng.choice(self.pair_plots)
        is_child = plot.hero == "child" or self.rng.random() < 0.65
        hero = make_character(self.rng, self.casting, is_child)
        friend = make_character(self.rng, self.casting, is_child, unlike=hero)
        slots = self.bind(plot, hero, friend)
        slots |= self.phrases_for_pair(hero, friend)
        return self.finish(plot, slots, "pair ")

    def bind(self, plot: Plot, hero: Character, friend: Character) -> dict[str, str]:
        """The slots that stay the same throughout a story."""
        slots = hero.slots() | friend.slots("f")
        slots |= {"hero": hero.reference, "call": hero.name or "", "home": hero.home}
        slots["friend"] = friend.reference
        slots["adult"] = elder_of(self.rng, hero)
        new, known = friend.introduction(self.rng), f"{slots['his']} friend {friend.reference}"
        slots["fintro"] = new if self.happens(NEW_FRIEND_SHARE) else known
        slots |= {"fintro:new": new, "fintro:friend": known}
        for names, choices in plot.variables:
            values = [fill(value, slots) for value in self.rng.choice(choices)]
            slots |= dict(zip(names, values, strict=True))
        slots["day"] = self.rng.choice(plot.days or self.words["days"])
        slots["land"] = self.rng.choice(self.words["lands"])
        slots["weather"] = weather(slots["day"])
        return slots

    def phrases_for_single(self, hero: Character) -> dict[str, str]:
        pronoun, introduction = hero.slots()["he"], hero.introduction(self.rng)
        return {
            "was": "was",
            "subject": "{He}",
            "intro": introduction,
            "two": introduction,
            "twowho": f"{introduction} who",
            "bare": hero.bare_subject(self.rng),
            "again": self.rng.choice((pronoun, hero.reference)),
            "isa": f"{capitalised(hero.reference)} was a {hero.adjective} {hero.kind}."
            if hero.name
            else f"The {hero.kind} was {hero.adjective}.",
        }

    def phrases_for_pair(self, hero: Character, friend: Character) -> dict[str, str]:
        both, his = f"{hero.reference} and {friend.reference}", hero.slots()["his"]
        if hero.is_child:
            relation = self.rng.choice(("brother" if friend.gender == "male" else "sister", "friend"))
            noun = "two friends" if relation == "friend" else "two children"
            short = f"{hero.reference} and {his} {relation} {friend.reference}"
            apart = f"a {hero.kind} named {hero.reference} and {his} {relation} {friend.reference}"
            isa = f"{both} were {'best friends' if relation == 'friend' else siblings(hero, friend)}."
            listed = both if relation == "friend" else short
            two = self.rng.choice((f"{noun} named {both}", f"{noun}, {listed}"))
        else:
            short = f"{hero.reference} the {hero.kind} and {friend.reference} the {friend.kind}"
            apart = f"a {hero.kind} named {hero.reference} and a {friend.kind} named {friend.reference}"
            isa = f"{short} were best friends."
            two = self.rng.choice((f"two friends named {both}", f"two friends, {apart}"))
        return {
            "was": "were",
            "subject": "They",
            "two": two,
            "twowho": f"{two}, who" if "," in two else f"{two} who",
            "intro": self.rng.choice((apart, apart, two if "," not in two else apart)),
            "bare": self.rng.choice((both, short, short)),
            "again": self.rng.choice(("they", both)),
            "isa": isa,
        }

    def about(self, opening: str, slots: dict[str, str], which: str) -> str:
        """The home, a trait, both or neither; never the home if the opening has told it already."""
        places = ("{home}", "{land}", "{Land}")
        parts = []
        if not any(place in opening for place in places) and self.happens(HOME_SHARE):
            parts.append(f"{slots['subject']} lived {{home}}.")
        if self.happens(TRAIT_SHARE):
            parts.append(self.rng.choice(self.words[f"{which}traits"]))
        return expand(self.rng, " ".join(parts), slots)

    def finish(self, plot: Plot, slots: dict[str, str], which: str) -> str:
        """Opening, plot and ending, in one paragraph."""
        opening = self.rng.choices(list(OPENINGS), list(OPENINGS.values()))[0]
        slots["about"] = self.about(opening, slots, which)
        is_state, scene = self.rng.choice(plot.scenes)
        slots["scene"] = fill(choose(self.rng, scene), slots)
        if is_state:
            opening = opening.replace("{Day}, ", "").replace("{weather} ", "")
        told = [text for always, text in plot.sentences if always or self.happens(OPTIONAL_SENTENCE_SHARE)]
        closing = [self.rng.choice(self.words[f"{which}closings"])] if self.happens(CLOSING_SHARE) else []
        the_end = ["The end."] if self.happens(THE_END_SHARE) else []
        templates = [opening, *told, *closing, self.rng.choice(plot.morals), *the_end]
        return " ".join(expand(self.rng, template, slots) for template in templates)
