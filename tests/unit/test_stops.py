"""Stop texts are never shown and end the text, however it is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.stops import StopMatcher, TextStream


class Bytes:
    """A tokenizer of single bytes, and of token 256 that stands for nothing."""

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == 256 else bytes([token])


def by_definition(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Returns what is shown of a text, and at which stop text it ends: character by character."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def fed(pieces: list[str], stops: list[str], include: bool) -> tuple[list[str], str | None]:
    matcher = StopMatcher(stops, include)
    shown = [matcher.push(piece) for piece in pieces]
    return [*shown, matcher.finish()], matcher.stopped_at


def cut(text: str, ends: list[int]) -> list[str]:
    places = [0, *sorted(end % (len(text) + 1) for end in ends), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


TEXTS = st.text(st.sampled_from("ab\n"), max_size=14)


@given(
    text=TEXTS,
    stops=st.lists(st.text(st.sampled_from("ab\n"), min_size=1, max_size=5), max_size=3),
    ends=st.lists(st.integers(0, 100), max_size=14),
    include=st.booleans(),
)
@examples(1500)
def test_every_way_to_cut_a_text_shows_the_same(
    text: str, stops: list[str], ends: list[int], include: bool
) -> None:
    pieces, stopped_at = fed(cut(text, ends), stops, include)
    assert ("".join(pieces), stopped_at) == by_definition(text, stops, include)


@given(text=TEXTS, stops=st.lists(st.text(st.sampled_from("ab\n"), min_size=1, max_size=5), max_size=3))
@examples(500)
def test_no_more_is_held_back_than_a_stop_text_may_begin_with(text: str, stops: list[str]) -> None:
    matcher, shown = StopMatcher(stops), ""
    for end, character in enumerate(text, 1):
        shown += matcher.push(character)
        if matcher.stopped_at is None:
            held = text[len(shown) : end]
            assert not held or any(stop.startswith(held) for stop in stops)


def test_nothing_comes_behind_a_stop_text() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.push(piece) for piece in ("one EN", "D two", " three")] == ["one ", "", ""]
    assert (matcher.finish(), matcher.stopped_at) == ("", "END")


def test_what_was_held_back_is_shown_at_the_end() -> None:
    matcher = StopMatcher(["END"])
    assert (matcher.push("the EN"), matcher.finish(), matcher.stopped_at) == ("the ", "EN", None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"caf\xc3\xa9", ["c", "a", "f", "", "\u00e9", ""]),
        (b"caf\xc3", ["c", "a", "f", "", "\ufffd"]),  # cut inside a character
        (b"ca\xc3\xa9s|", ["c", "a", "", "\u00e9", "", "", "s|"]),  # what may begin "s|>" is held back
        (b"a\xc3\xa9s|>b", ["a", "", "\u00e9", "", "", "", "", ""]),
    ],
)
def test_tokens_give_text_that_splits_no_character_and_no_stop_text(text: bytes, shown: list[str]) -> None:
    stream = TextStream(Bytes(), SamplingParams(stop=["s|>"]))
    pieces = [stream.push(token) for token in text]
    assert [*pieces, stream.finish()] == shown
    assert (stream.stopped_at is not None) == (b"s|>" in text)


def test_a_stop_text_may_be_shown_and_counts_only_behind_min_tokens() -> None:
    params = SamplingParams(stop="ab", include_stop_str_in_output=True, min_tokens=2)
    stream = TextStream(Bytes(), params)
    assert "".join(stream.push(token) for token in b"ababab") == "abab"
    assert (stream.stopped_at, stream.finish()) == ("ab", "")
