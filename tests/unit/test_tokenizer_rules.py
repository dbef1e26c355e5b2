"""The tokenizer on small made-up vocabularies: special tokens, prefixes, byte fallback, damage."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vocabularies import expect_error_or_tokens
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, decode, load_tokenizer

UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)
NO_SPECIAL_IDS = dict.fromkeys(["bos_token_id", "eos_token_id", "unknown_token_id"])

Entry = tuple[str | bytes, float, int]  # text, score, type

BYTES: list[Entry] = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
SPECIAL: list[Entry] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
FIRST = len(SPECIAL) + len(BYTES)  # the id of the first token that a test adds


def metadata_with(*entries: Entry, **keys: Any) -> dict[str, Any]:
    """GGUF metadata of a vocabulary: SPECIAL and BYTES, then the entries; a key of value None is left out."""
    return metadata_of(*SPECIAL, *BYTES, *entries, **keys)


def metadata_of(*entries: Entry, **keys: Any) -> dict[str, Any]:
    """GGUF metadata of a vocabulary of these entries alone."""
    texts, scores, types = zip(*entries)
    values = {
        "model": "llama",
        "tokens": list(texts),
        "scores": list(scores),
        "token_type": list(types),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | keys
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def tokenizer_with(*entries: Entry, **keys: Any) -> Tokenizer:
    return load_tokenizer(metadata_with(*entries, **keys))


def byte_tokens(text: str) -> list[int]:
    return [len(SPECIAL) + byte for byte in text.encode()]


def merged(text: str, scores: dict[str, float]) -> list[str]:
    """The plainest byte-pair merging: join the best-scoring pair, of equals the first, until none is left."""
    symbols = list(text)
    while True:
        pairs = [
            (scores[left + right], -place)
            for place, (left, right) in enumerate(pairwise(symbols))
            if left + right in scores
        ]
        if not pairs:
            return symbols
        place = -max(pairs)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


@given(
    scores=st.dictionaries(st.text("ab\u2581é", min_size=1, max_size=5), st.integers(-9, 0), max_size=20),
    text=st.text("ab é\n\0"),
)
@settings(deadline=None)
def test_merging_is_that_of_the_plain_algorithm(scores: dict[str, float], text: str) -> None:
    tokenizer = tokenizer_with(*((piece, score, NORMAL) for piece, score in scores.items()))
    expected: list[int] = []
    for symbol in merged("\u2581" + text.replace(" ", "\u2581") if text else "", scores):
        expected += [FIRST + list(scores).index(symbol)] if symbol in scores else byte_tokens(symbol)
    tokens = tokenizer.encode(text, add_special=False)
    assert tokens == expected
    assert tokenizer.encode(text) == [1, *expected]
    if "\u2581" in scores:
        assert decode(tokenizer, tokens) == text


def test_begin_and_end_tokens_follow_the_metadata() -> None:
    assert tokenizer_with(add_bos_token=False).encode("") == []
    assert tokenizer_with().encode("") == [1]
    assert tokenizer_with(add_eos_token=True).encode("") == [1, 2]
    assert tokenizer_with(add_eos_token=np.bool_(True)).encode("", add_special=False) == []
    assert not tokenizer_with(add_bos_token=False).adds_bos


def test_special_ids_default_as_in_llama_cpp() -> None:
    tokenizer = tokenizer_with(bos_token_id=None, eos_token_id=None)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2}))
    tiny = load_tokenizer(metadata_of(("a", 0.0, NORMAL), **NO_SPECIAL_IDS))
    assert (tiny.bos_token_id, tiny.eos_token_ids, tiny.adds_bos) == (None, frozenset(), False)


@pytest.mark.parametrize("token", [FIRST, -1, 2**32 - 1])
def test_special_ids_outside_the_vocabulary_count_for_nothing(token: int) -> None:
    keys = ("bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "fim_pad_token_id")
    tokenizer = tokenizer_with(**dict.fromkeys(keys, token))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2}))


def test_suppressed_tokens_are_those_within_the_vocabulary() -> None:
    assert tokenizer_with().suppressed_token_ids == frozenset()
    tokenizer = tokenizer_with(suppress_tokens=np.array([3, FIRST - 1, FIRST, -1], np.int32))
    assert tokenizer.suppressed_token_ids == {3, FIRST - 1}
    assert tokenizer_with(suppress_tokens=[]).suppressed_token_ids == frozenset()


def test_scores_and_types_past_the_last_token_count_for_nothing() -> None:
    metadata = metadata_with(("ab", 0.0, NORMAL), add_space_prefix=False)
    for key in ("scores", "token_type"):
        metadata[f"tokenizer.ggml.{key}"] += [CONTROL, CONTROL]
    assert load_tokenizer(metadata).encode("ab") == [1, FIRST]


def test_tokens_that_end_a_turn_end_a_generation() -> None:
    entries = [("<|eot|>", 0.0, CONTROL), ("<eom>", 0.0, CONTROL), ("<|im_end|>", 0.0, NORMAL)]
    tokenizer = tokenizer_with(*entries, eot_token_id=FIRST, eom_token_id=np.uint32(FIRST + 1))
    assert tokenizer.eos_token_ids == {2, FIRST, FIRST + 1, FIRST + 2}
    assert tokenizer.token_bytes(FIRST + 2) == b""  # by its text a control token, whatever its type says


def test_control_tokens_are_found_only_on_request() -> None:
    # All merges up to "<s>" exist, but what a user typed never becomes a control token.
    tokenizer = tokenizer_with(("<s", -1.0, NORMAL), ("s>", -2.0, NORMAL), add_space_prefix=False)
    assert tokenizer.encode("a<s>", add_special=False) == [*byte_tokens("a"), FIRST, *byte_tokens(">")]
    assert tokenizer.encode("a<s>", add_special=False, parse_special=True) == [*byte_tokens("a"), 1]
    assert tokenizer.encode("<unk></s>", add_special=False, parse_special=True) == [0, 2]


def test_user_defined_tokens_are_always_found_and_the_longest_first() -> None:
    entries: list[Entry] = [("ab", 0.0, USER_DEFINED), ("bcd", 0.0, USER_DEFINED), ("  ", 0.0, USER_DEFINED)]
    tokenizer = tokenizer_with(*entries, add_space_prefix=False)
    assert tokenizer.encode("abcd", add_special=False) == [*byte_tokens("a"), FIRST + 1]
    assert tokenizer.encode("abab", add_special=False) == [FIRST, FIRST]
    assert tokenizer.encode("   x") == [1, FIRST + 2, *byte_tokens("\u2581x")]
    assert tokenizer.token_bytes(FIRST + 2) == b"  "


def test_the_space_prefix_goes_before_the_text_and_after_special_tokens() -> None:
    tokenizer = tokenizer_with(("\u2581", -1.0, NORMAL), ("<u>", 0.0, USER_DEFINED))
    space, a, b = FIRST, *byte_tokens("ab")
    assert tokenizer.adds_space_prefix
    assert tokenizer.encode("a") == [1, space, a]
    assert tokenizer.encode(" a") == [1, space, space, a]
    assert tokenizer.encode("</s>a<s>b", parse_special=True) == [1, 2, space, a, 1, space, b]
    assert tokenizer.encode("<u>a") == [1, FIRST + 1, space, a]
    assert not tokenizer_with(add_space_prefix=False).adds_space_prefix
    assert tokenizer_with(add_space_prefix=False).encode("a") == [1, a]


def test_decode_drops_one_leading_space_only_where_encode_adds_one() -> None:
    entry: Entry = ("\u2581", -1.0, NORMAL)
    tokens = [1, FIRST, FIRST, *byte_tokens("a")]
    assert decode(tokenizer_with(entry), tokens) == " a"
    assert decode(tokenizer_with(entry, add_space_prefix=False), tokens) == "  a"
    assert decode(tokenizer_with(), byte_tokens("é")[:1]) == "\ufffd"


@pytest.mark.parametrize("kind", [UNUSED, UNDEFINED, 7, -1])
def test_unused_tokens_come_out_of_merging_but_stand_for_nothing(kind: int) -> None:
    pieces: list[Entry] = [("ab", -1.0, kind), ("abc", -2.0, NORMAL)]
    tokenizer = tokenizer_with(*pieces, add_space_prefix=False)
    assert tokenizer.encode("ababc", add_special=False) == [FIRST, FIRST + 1]
    assert tokenizer.token_bytes(FIRST) == b""


def test_text_is_taken_as_it_is_whatever_other_kinds_would_do_with_it() -> None:
    """llama.cpp reads these keys for the kind "t5" only."""
    keys: dict[str, Any] = {"remove_extra_whitespaces": True, "precompiled_charsmap": b"x"}
    tokenizer = tokenizer_with(("\u2581", -1.0, NORMAL), **keys)
    assert tokenizer.encode(" a  ") == [1, FIRST, FIRST, *byte_tokens("a"), FIRST, FIRST]


def test_lone_surrogates_become_the_replacement_character() -> None:
    tokenizer = tokenizer_with(add_space_prefix=False)
    assert tokenizer.encode("a\udcff", add_special=False) == byte_tokens("a\ufffd")


def test_without_scores_the_first_pair_wins_and_without_types_texts_tell_bytes() -> None:
    entries: list[Entry] = [("bc", 0.0, NORMAL), ("ab", 0.0, NORMAL)]
    tokenizer = tokenizer_with(*entries, scores=None, token_type=None, add_space_prefix=False)
    assert tokenizer.encode("abc\n") == [1, FIRST + 1, *byte_tokens("c\n")]
    assert [tokenizer.token_bytes(token) for token in (0, 1, 2, 3 + 10)] == [b"", b"", b"", b"\n"]


def test_the_first_of_duplicate_tokens_is_used_and_both_stand_for_the_text() -> None:
    texts = ("a", "a", "", "", "<0x41>", "<unmatched 3>", "b")
    tokenizer = tokenizer_with(*((text, 0.0, NORMAL) for text in texts), add_space_prefix=False)
    assert tokenizer.encode("abA", add_special=False) == [FIRST, FIRST + 6, *byte_tokens("A")]
    stands_for = [tokenizer.token_bytes(token) for token in range(FIRST, FIRST + 6)]
    assert stands_for == [b"a", b"a", b"", b"", b"A", b"<unmatched 3>"]


def test_odd_texts_keep_their_bytes() -> None:
    texts: list[str | bytes] = [b"\xff\xfe", "\udce9", "\0", "x" * 9000, "\u2581\u2581", bytearray(b"ab")]  # type: ignore[list-item]
    tokenizer = tokenizer_with(*((text, 0.0, NORMAL) for text in texts), add_space_prefix=False)
    stands_for = [tokenizer.token_bytes(token) for token in range(FIRST, FIRST + len(texts))]
    assert stands_for == [b"\xff\xfe", b"\xe9", b"\0", b"x" * 9000, b"  ", b"ab"]
    assert tokenizer.encode("\0ab", add_special=False) == [*byte_tokens("\0"), FIRST + 5]


def test_missing_bytes_fall_back_to_the_character_then_the_unknown_token_then_an_error() -> None:
    keys: dict[str, Any] = {**NO_SPECIAL_IDS, "add_bos_token": False, "add_space_prefix": False}
    a: Entry = ("a", 0.0, NORMAL)
    tokenizer = load_tokenizer(metadata_of(a, ("<unk>", 0.0, UNKNOWN), ("\0", 0.0, NORMAL), **keys))
    assert tokenizer.encode("a\0é") == [0, 2, 1, 1]
    without = load_tokenizer(metadata_of(a, **keys))
    assert without.encode("aa") == [0, 0]
    with pytest.raises(TokenizerError, match="no token for byte 0x62, nor an unknown token"):
        without.encode("ab")


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_a_file_without_a_tokenizer_is_said_to_have_none(kind: object) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer; .* --tokens"):
        load_tokenizer({"general.name": "x"} | ({"tokenizer.ggml.model": kind} if kind else {}))


@pytest.mark.parametrize("kind", ["bert", "rwkv", "plamo2", "whitespace"])
def test_an_unknown_kind_is_named(kind: str) -> None:
    supported = "'llama', 'gpt2', 'gemma4', 'hybriddna', 't5'"
    with pytest.raises(TokenizerError, match=f"of kind '{kind}', and only {supported} are supported; --tok"):
        load_tokenizer({"tokenizer.ggml.model": kind})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", ["llama"], "model is of type list, not the name of a tokenizer"),
        ("tokens", None, "tokens is missing"),
        ("tokens", [], "tokens is empty"),
        ("tokens", "abc", "tokens is of type str"),
        ("tokens", ["a", 3], "token 1 of .*tokens is of type int"),
        ("tokens", ["\ud800"], "token 0 of .*tokens is not Unicode"),
        ("scores", [0.0], "scores holds 1 values for 259 tokens"),
        ("scores", [[0.0]] * FIRST, "scores is not a list of numbers"),
        ("scores", ["x"] * FIRST, "scores is not a list of numbers"),
        ("scores", [0.0, float("nan")] + [0.0] * (FIRST - 2), "scores holds NaN for token 1"),
        ("token_type", [6] + [1] * (FIRST - 1), "token 0 is a byte token but its text is '<unk>'"),
        ("token_type", [1.0] * FIRST, "token_type holds values of type float64"),
        ("eos_token_id", "2", "eos_token_id is of type str, not a token id"),
        ("eos_token_id", True, "eos_token_id is of type bool"),
        ("scores", [True] * FIRST, "scores holds values of type bool"),
        ("add_bos_token", 1, "add_bos_token is of type int, not true or false"),
    ],
)
def test_damage_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(metadata_with() | {f"tokenizer.ggml.{key}": value})


def test_a_begin_token_that_is_wanted_but_missing_is_an_error() -> None:
    with pytest.raises(TokenizerError, match=r"add_bos_token is true but there is no .*bos_token_id"):
        load_tokenizer(metadata_of(("a", 0.0, NORMAL), add_bos_token=True, **NO_SPECIAL_IDS))


@pytest.mark.parametrize("token", [-1, FIRST])
def test_ids_outside_the_vocabulary_are_errors(token: int) -> None:
    with pytest.raises(TokenizerError, match=f"token {token} is outside the vocabulary of {FIRST} tokens"):
        tokenizer_with().token_bytes(token)


def junk() -> st.SearchStrategy[Any]:
    """Values of any type that a GGUF reader could hand over, and some that it couldn't."""
    numbers = st.booleans() | st.integers(-3, 300) | st.integers() | st.floats()
    scalars = st.none() | numbers | st.text() | st.binary()
    lists = st.lists(scalars, max_size=5) | st.lists(st.lists(scalars, max_size=3), max_size=3)
    dtypes = st.sampled_from([np.float32, np.int32, np.uint8, np.bool_, np.float64])
    return scalars | lists | st.builds(np.ones, st.integers(0, FIRST + 2), dtypes)


KEYS = [
    *("model", "tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "eot_token_id"),
    *("eom_token_id", "unknown_token_id", "add_bos_token", "add_eos_token", "add_space_prefix"),
    *("remove_extra_whitespaces", "precompiled_charsmap", "suppress_tokens"),
]


@given(damage=st.dictionaries(st.sampled_from(KEYS), junk(), min_size=1, max_size=3), text=st.text())
@settings(deadline=None)
def test_a_damaged_key_is_an_error_or_harmless(damage: dict[str, Any], text: str) -> None:
    metadata = metadata_with() | {f"tokenizer.ggml.{key}": value for key, value in damage.items()}
    expect_error_or_tokens(metadata, text)


@given(
    texts=st.dictionaries(st.integers(0, FIRST + 4), st.text("<0x>AFas\u2581\0") | st.binary(max_size=4)),
    types=st.dictionaries(st.integers(0, FIRST + 4), st.integers(0, 6)),
    scores=st.dictionaries(st.integers(0, FIRST + 4), st.floats(allow_nan=False)),
    text=st.text("<0x>AFas \0é"),
)
@settings(deadline=None)
def test_damaged_entries_are_an_error_or_harmless(
    texts: dict[int, Any], types: dict[int, int], scores: dict[int, float], text: str
) -> None:
    entries: list[Entry] = [(letters, -1.0, NORMAL) for letters in ("a", "s", "as", "asa", "<s")]
    metadata = metadata_with(*entries)
    for key, changes in (("tokens", texts), ("token_type", types), ("scores", scores)):
        values = metadata[f"tokenizer.ggml.{key}"]
        metadata[f"tokenizer.ggml.{key}"] = [changes.get(place, value) for place, value in enumerate(values)]
    expect_error_or_tokens(metadata, text)
