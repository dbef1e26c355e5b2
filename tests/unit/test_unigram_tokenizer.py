"""The unigram tokenizer on small made-up vocabularies: the likeliest cut, normalising, damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, decode, load_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
SPECIAL = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
FIRST = len(SPECIAL)
LETTERS = [("\u2581", -4.0, NORMAL), *((letter, -5.0, NORMAL) for letter in "abc")]

Entry = tuple[str, float, int]  # text, score, type


def metadata_with(*entries: Entry, **keys: Any) -> dict[str, Any]:
    """GGUF metadata of a vocabulary: SPECIAL, then the entries; a key of value None is left out."""
    texts, scores, types = zip(*SPECIAL, *entries)
    values = {"model": "t5", "tokens": list(texts), "scores": list(scores), "token_type": list(types)} | keys
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def load(*entries: Entry, **keys: Any) -> Tokenizer:
    return load_tokenizer(metadata_with(*entries, **keys))


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """Returns the texts of the tokens, without the end token; "?" for the unknown one."""
    tokens = tokenizer.encode(text, add_special=False)
    return [tokenizer.token_bytes(token).decode() if token != 2 else "?" for token in tokens]


def charsmap() -> bytes:
    """The table of replacements that the sentencepiece library calls nmt_nfkc."""
    model = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    table = dict(fields(bytes(dict(fields(model))[3])))[2]  # normalizer_spec.precompiled_charsmap
    assert isinstance(table, bytes) and len(table) > 100_000
    return table


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message that holds integers and counted strings."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            length = varint()
            yield tag >> 3, message[place : place + length]
            place += length


def highest_score(text: str, scores: dict[str, float]) -> float:
    """The highest sum of scores of any way to cut the text into pieces."""
    best = [0.0]
    for end in range(1, len(text) + 1):
        choices = [best[start] + scores[text[start:end]] for start in range(end) if text[start:end] in scores]
        best.append(max(choices))
    return best[-1]


@given(
    longer=st.dictionaries(st.text("abé", min_size=2, max_size=4), st.integers(-90, -1)),
    single=st.tuples(*[st.integers(-90, -1)] * 3),
    text=st.text("abé", max_size=12),
)
def test_the_likeliest_cut_is_found(longer: dict[str, float], single: tuple[float, ...], text: str) -> None:
    scores = {**longer, **dict(zip("abé", single))}
    tokenizer = load(*((piece, float(score), NORMAL) for piece, score in scores.items()))
    found = pieces_of(tokenizer, text)
    assert "".join(found) == text
    assert sum(scores[piece] for piece in found) == highest_score(text, scores)


@given(text=st.text("a=", max_size=40), seed=st.integers(0, 9))
def test_scores_are_added_up_as_float64(text: str, seed: int) -> None:
    """As llama.cpp does. A run of one character has many cuts whose sums differ by rounding only."""
    random = np.random.default_rng(seed)
    pieces = [letter * count for letter in "a=" for count in range(1, 6)]
    scores = dict(zip(pieces, random.uniform(-14, -6, len(pieces)).astype(np.float32).tolist()))
    tokenizer = load(*((piece, score, NORMAL) for piece, score in scores.items()))
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        starts = [start for start in range(end) if text[start:end] in scores]
        sums = [best[start][0] + scores[text[start:end]] for start in starts]
        start = starts[sums.index(max(sums))]  # of equals the one that starts first
        best.append((max(sums), [*best[start][1], text[start:end]]))
    assert pieces_of(tokenizer, text) == best[-1][1]


@pytest.mark.parametrize("score", [float("inf"), float("-inf"), 3e38])
def test_odd_scores_are_harmless(score: float) -> None:
    tokenizer = load(*LETTERS, ("ab", score, NORMAL))
    assert "".join(pieces_of(tokenizer, "abab")) == "abab"


def test_begin_and_end_tokens() -> None:
    assert load(*LETTERS).encode("a") == [FIRST + 1, 1]  # the end token, unlike other kinds
    assert load(*LETTERS, add_eos_token=False).encode("a") == [FIRST + 1]
    assert load(*LETTERS).encode("a", add_special=False) == [FIRST + 1]
    begun = load(*LETTERS, bos_token_id=0, add_bos_token=True)
    assert begun.encode("") == [0, 1]
    assert load(*LETTERS).bos_token_id is None
    assert load(*LETTERS).eos_token_ids == {1}


def test_spaces_as_the_metadata_have_them() -> None:
    plain = load(*LETTERS)
    assert pieces_of(plain, " a  b ") == [" ", "a", " ", " ", "b", " "]
    prefixed = load(*LETTERS, add_space_prefix=True)
    assert prefixed.adds_space_prefix
    assert pieces_of(prefixed, "a b") == [" ", "a", " ", "b"]
    assert pieces_of(prefixed, "  ") == [" ", " "]  # no word, no prefix
    for prefix in (True, False):  # each word begins with a space then, also the first
        single = load(*LETTERS, remove_extra_whitespaces=True, add_space_prefix=prefix)
        assert pieces_of(single, "  a   b ") == [" ", "a", " ", "b"]
        assert pieces_of(single, "   ") == []
        assert pieces_of(single, " a\u2581 ") == [" ", "a", " "]  # U+2581 is no space
        assert decode(single, single.encode("a b")) == "a b"


def test_unknown_characters_are_one_unknown_token() -> None:
    tokenizer = load(*LETTERS)
    assert pieces_of(tokenizer, "aéèb") == ["a", "?", "b"]
    assert load(*LETTERS, token_type=None).encode("é", add_special=False) == [
        2
    ]  # unless a key says otherwise
    entries = {"tokens": ["a", "b"], "scores": [-1.0, -2.0], "token_type": [NORMAL, NORMAL]}
    with pytest.raises(TokenizerError, match="no token for 'é', nor an unknown token"):
        load(**entries, eos_token_id=1).encode("aé")


def test_special_and_added_tokens() -> None:
    unused = ("cc", -9.0, UNUSED)
    tokenizer = load(*LETTERS, ("<x>", 0.0, USER_DEFINED), unused, ("bc", 0.0, CONTROL))
    added = FIRST + len(LETTERS)
    assert tokenizer.encode("a<x>b", add_special=False) == [FIRST + 1, added, FIRST + 2]
    assert pieces_of(tokenizer, "abc") == ["a", "b", "c"]
    assert tokenizer.encode("a</s>bc", add_special=False, parse_special=True) == [FIRST + 1, 1, added + 2]
    assert tokenizer.encode("acc", add_special=False) == [FIRST + 1, added + 1]
    assert tokenizer.token_bytes(added + 1) == b""
    assert tokenizer.token_bytes(1) == b""


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_text_is_normalised_by_the_files_table(dtype: Any) -> None:
    table = np.frombuffer(TABLE, dtype).tolist()  # as coordinator.gguf.header has it
    tokenizer = load(*LETTERS, precompiled_charsmap=table)
    assert pieces_of(tokenizer, "ａⓑ\u3000c\n") == ["a", "b", " ", "c", " "]
    assert pieces_of(load(*LETTERS, precompiled_charsmap=[]), "ａ") == ["?"]
    prefixed = load(*LETTERS, ("<x>", -9.0, USER_DEFINED), add_space_prefix=True, precompiled_charsmap=table)
    assert pieces_of(prefixed, "\u3000") == [" "]  # no word, no prefix
    assert pieces_of(prefixed, "ａ＜x＞") == [" ", "a", "<x>"]  # an added token, made by normalising


TABLE = charsmap()


def damaged(place: int, value: bytes) -> list[int]:
    return list(TABLE[:place] + value + TABLE[place + len(value) :])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("abc", "is not a list of bytes"),
        ([1, 2, 300], "is not a list of bytes"),
        ([[1]], "is not a list of bytes"),
        ([1.5], "is not a list of bytes"),
        ([1, 2], "is damaged: it has 2 bytes and says that its trie has 513"),
        ([0, 4, 0, 0, 0], "is damaged: it has 5 bytes and says that its trie has 1024"),
        ([0, 4, 0, 0] + [0] * 1024 + [65], "points outside of the replacements"),  # no NUL ends it
        (damaged(0, b"\xff\xff\xff\xff"), "says that its trie has 4294967295"),
        (damaged(4, b"\xff\xff\xff\x7f"), "points outside of itself"),
        (damaged(len(TABLE) - 3, b"\xff"), "replacements are not UTF-8"),
    ],
)
def test_a_damaged_table_is_refused(table: object, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(*LETTERS, precompiled_charsmap=table)


@given(
    changes=st.dictionaries(st.integers(0, 5000) | st.integers(-9999, -1), st.integers(0, 255), max_size=40),
    text=st.text(),
)
def test_any_table_is_refused_or_can_be_followed(changes: dict[int, int], text: str) -> None:
    """Following it outside would end this process."""
    table = bytearray(TABLE)
    for place, byte in changes.items():
        table[place] = byte
    try:
        tokenizer = load(*LETTERS, precompiled_charsmap=bytes(table))
    except TokenizerError as error:
        assert "\n" not in str(error)
    else:
        tokenizer.encode(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scores", [0.0], "scores holds 1 values for 7 tokens"),
        ("tokens", None, "tokens is missing"),
        ("add_eos_token", "yes", "add_eos_token is of type str"),
        ("remove_extra_whitespaces", 1, "remove_extra_whitespaces is of type int"),
    ],
)
def test_damage_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(metadata_with(*LETTERS) | {f"tokenizer.ggml.{key}": value})


def table_of(units: dict[int, int], replacements: bytes) -> list[int]:
    """A table whose trie has these units; the others lead nowhere."""
    trie = np.full(256, 1 << 31, np.uint32)  # values, which no byte matches
    for place, unit in units.items():
        trie[place] = unit
    return list((1024).to_bytes(4, "little") + trie.tobytes() + replacements)


A, HAS_LEAF = ord("a"), 1 << 8
ROOT = 128 << 10  # its children begin at 128
A_BECOMES = {0: ROOT, 128 ^ A: (64 << 10) | HAS_LEAF | A, (128 ^ A) ^ 64: 1 << 31}


def test_replacements_are_short() -> None:
    """One letter that becomes a megabyte would make a prompt of any length a thousand times as long."""
    assert pieces_of(load(*LETTERS, precompiled_charsmap=table_of(A_BECOMES, b"bc\0")), "a") == ["b", "c"]
    for length in (129, 10**6):
        with pytest.raises(TokenizerError, match=f"turns a character into {length} bytes; at most 128 are"):
            load(*LETTERS, precompiled_charsmap=table_of(A_BECOMES, b"b" * length + b"\0"))


def test_a_trie_that_leads_back_into_itself_is_refused() -> None:
    """Every place of a text would be walked from to the text's end."""
    node = 128 ^ A
    units = {**A_BECOMES, node: ((node ^ 128) << 10) | A}  # its own child, by the same letter
    with pytest.raises(TokenizerError, match="its trie has keys of more than 64 bytes"):
        load(*LETTERS, precompiled_charsmap=table_of(units, b"b\0"))
    with pytest.raises(TokenizerError, match="has 5000000 bytes; at most 4194304 are possible"):
        load(*LETTERS, precompiled_charsmap=[0] * 5_000_000)


def test_texts_that_would_take_much_memory_are_left_out_or_refused() -> None:
    long = load(*LETTERS, ("a" * 513, -1.0, NORMAL), ("b" * 512, -1.0, NORMAL))
    assert pieces_of(long, "a" * 513) == ["a"] * 513
    assert pieces_of(long, "b" * 512) == ["b" * 512]
    texts = [(f"{number:0500}", -1.0, NORMAL) for number in range(8400)]
    with pytest.raises(TokenizerError, match=r"the tokens' texts have \d+ bytes in all; at most 4194304"):
        load(*LETTERS, *texts)
