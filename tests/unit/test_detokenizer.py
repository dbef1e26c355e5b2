"""Incremental detokenization: no character is split, nothing is lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.chatting import END, START, make_tokenizer
from tplaunch.coordinator.text.detokenizer import Detokenizer, WithControlTokens


class Pieces:
    """A tokenizer whose tokens stand for the given bytes."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


def pushed(*pieces: bytes) -> list[str]:
    """Returns the texts of each push, and of finish at the end."""
    detokenizer = Detokenizer(Pieces(*pieces))
    return [*map(detokenizer.push, range(len(pieces))), detokenizer.finish()]


def test_a_character_comes_out_whole() -> None:
    llama = "🦙".encode()
    assert pushed(llama[:1], llama[1:3], llama[3:] + b"!") == ["", "", "🦙!", ""]


def test_a_character_that_never_ends_comes_out_at_the_end() -> None:
    assert pushed(b"a", "é".encode()[:1]) == ["a", "", "\ufffd"]


def test_a_character_broken_off_by_another_is_replaced_at_once() -> None:
    assert pushed("é".encode()[:1], b"a", b"\xff") == ["", "\ufffda", "\ufffd", ""]


def test_a_leading_space_is_kept_and_control_tokens_say_nothing() -> None:
    assert pushed(b" was", b"", b" a") == [" was", "", " a", ""]


def test_after_finish_a_new_text_begins() -> None:
    detokenizer = Detokenizer(Pieces("é".encode()[:1], b"a"))
    assert [detokenizer.push(0), detokenizer.finish(), detokenizer.finish()] == ["", "\ufffd", ""]
    assert detokenizer.push(1) == "a"


@given(st.lists(st.binary(max_size=3) | st.sampled_from([bytes([byte]) for byte in "é€🦙".encode()])))
def test_the_pieces_are_those_of_the_whole(pieces: list[bytes]) -> None:
    assert "".join(pushed(*pieces)) == b"".join(pieces).decode("utf-8", "replace")


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")),
    cuts=st.lists(st.integers(0, 200)),
)
def test_valid_text_is_cut_only_between_characters(text: str, cuts: list[int]) -> None:
    encoded = text.encode()
    bounds = sorted({0, len(encoded), *(cut for cut in cuts if cut < len(encoded))})
    assert "".join(pushed(*(encoded[start:end] for start, end in pairwise(bounds)))) == text


def test_control_tokens_can_be_shown_by_their_names() -> None:
    tokenizer = make_tokenizer()
    tokens = [*tokenizer.encode("a", add_special=False), START, END]
    for shown, text in ((tokenizer, "a"), (WithControlTokens(tokenizer), "a<|im_start|><|im_end|>")):
        assert "".join(map(Detokenizer(shown).push, tokens)) == text
