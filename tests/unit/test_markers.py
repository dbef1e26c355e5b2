"""Where added tokens are in a text: as if one was looked for after the other, in far less time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tplaunch.coordinator.text.markers import MAX_MARKER_BYTES, Marker, MarkerCutter

SPACES = " \t\n\v\f\r"


def one_after_another(text: str, markers: list[Marker]) -> list[str | int]:
    fragments: list[str | int] = [text]
    for marker in sorted(markers, key=lambda marker: -len(marker.text.encode())):
        fragments = [part for fragment in fragments for part in cut(fragment, marker)]
    return [fragment for fragment in fragments if fragment != ""]


def cut(fragment: str | int, marker: Marker) -> Iterator[str | int]:
    if isinstance(fragment, int):
        yield fragment
        return
    runs = fragment.split(marker.text)
    for place, run in enumerate(runs):
        rest = run.lstrip(SPACES) if place and marker.strips_right else run
        rest = rest.rstrip(SPACES) if place < len(runs) - 1 and marker.strips_left else rest
        yield from (marker.token, rest) if place else (rest,)


@pytest.mark.parametrize("alphabet", ["ab", "ab ", "a \n", "abc<> ", "a\u00e9\u4e2d "])
def test_the_longest_comes_first_whatever_overlaps(alphabet: str) -> None:
    random_numbers = random.Random(alphabet)

    def any_text(longest: int) -> str:
        return "".join(random_numbers.choices(alphabet, k=random_numbers.randrange(longest)))

    for _ in range(1000):
        markers = [
            Marker(any_text(5) + alphabet[0], token, False, *random_numbers.choices((True, False), k=2))
            for token in range(random_numbers.randrange(8))
        ]
        text = any_text(40)
        assert MarkerCutter(markers).cut(text) == one_after_another(text, markers), (markers, text)


def test_what_stands_between_is_text() -> None:
    cutter = MarkerCutter([Marker("<a>", 1, False), Marker("<a", 2, False), Marker("a>b", 3, False)])
    assert cutter.cut("x<a>b<a b") == ["x", 1, "b", 2, " b"]
    assert cutter.cut("") == []
    assert MarkerCutter([]).cut("text") == ["text"]


def test_a_long_text_with_many_different_markers_takes_no_time() -> None:
    """Speech models have tens of thousands, and prompts with thousands of them."""
    texts = [f"<custom_token_{token}>" for token in range(30_000)]
    cutter = MarkerCutter([Marker(text, token, False) for token, text in enumerate(texts)])
    started = time.process_time()
    found = cutter.cut("\n".join(texts))
    assert time.process_time() - started < 5
    assert found[::2] == list(range(30_000)) and set(found[1::2]) == {"\n"}


def test_markers_of_which_each_begins_with_another() -> None:
    cutter = MarkerCutter([Marker("a" * length, length, False) for length in range(1, 2000)])
    started = time.process_time()
    found = cutter.cut("b".join("a" * length for length in range(200)))
    assert time.process_time() - started < 5
    assert found == ["b", *(part for length in range(1, 200) for part in (length, "b"))][:-1]
    assert cutter.cut("a" * (MAX_MARKER_BYTES + 3)) == [MAX_MARKER_BYTES, 3]
