"""Byte-level BPE on small made-up vocabularies: merging, words, special tokens, damage."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drivers import REPOSITORY
from tests.vocabularies import (
    BYTE,
    CHARACTERS,
    CONTROL,
    FIRST,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_level_metadata,
    expect_error_or_tokens,
    written,
)
from tplaunch.coordinator.text.detokenizer import Detokenizer
from tplaunch.coordinator.text.pre_tokenizers import PRE_TOKENIZERS
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, decode, load_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KINDS = {kind: name for name, kind in PRE_TOKENIZERS.items()}  # one name each
BYTE_LEVEL = [name for kind, name in KINDS.items() if kind.is_byte_level]
RAW = [name for kind, name in KINDS.items() if not kind.is_byte_level]

WORDS = [("e", "n"), (" ", "en"), ("\n", "\n"), ("1", "2"), ("'", "s")]
TOKENIZERS: dict[str, Tokenizer] = {}  # made once for all the examples of a test


def load(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(byte_level_metadata(*args, **keys))


def of_bytes(text: str) -> list[int]:
    return list(text.encode())


def merged(word: bytes, ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """The plainest byte-pair merging: join the pair with the lowest rank, of equals the first."""
    symbols = [word[place : place + 1] for place in range(len(word))]
    while True:
        pairs = [(ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not pairs:
            return symbols
        place = min(pairs)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges in any order, of which each joins letters or what another one makes."""
    made = ["a", "b", " ", "é", "\n"]
    for _ in range(draw(st.integers(0, 12))):
        left, right = draw(st.sampled_from(made)), draw(st.sampled_from(made))
        made.append(left + right)
    texts = [text for text in made if len(text) > 1]
    pairs = [(text[:cut], text[cut:]) for text in texts for cut in range(1, len(text))]
    known = set(made)
    pairs = [pair for pair in pairs if known.issuperset(pair)]
    return draw(st.permutations(pairs))


@given(merges=merge_lists(), text=st.text("ab é\n", max_size=12), ignores=st.booleans())
def test_merging_is_that_of_the_plain_algorithm(
    merges: list[tuple[str, str]], text: str, ignores: bool
) -> None:
    """Within words: an optional space and letters (bloom), or what Llama 3 takes for one."""
    pairs = [(b"\xc3", b"\xa9"), *((left.encode(), right.encode()) for left, right in merges)]
    made = list(dict.fromkeys(left + right for left, right in pairs))
    tokenizer = load(
        pre="youtu" if ignores else "bloom",
        tokens=CHARACTERS + [written(piece) for piece in made],
        token_type=None,
        merges=[f"{written(left)} {written(right)}" for left, right in pairs],
    )
    words = [word for word in re.split("( ?[abé]+)", text) if word]
    if ignores:
        words = re.findall("[ab é]?[abé]+|\\s*\n+|\\s+(?!\\S)|\\s+", text)
    ranks = {pair: -rank for rank, pair in enumerate(reversed(pairs))}
    ids = {bytes([byte]): byte for byte in range(256)} | {
        piece: FIRST + place for place, piece in enumerate(made)
    }
    expected: list[int] = []
    for word in map(str.encode, words):
        whole = ignores and word in ids
        expected += [ids[symbol] for symbol in ([word] if whole else merged(word, ranks))]
    assert tokenizer.encode(text) == expected
    assert decode(tokenizer, expected) == text


@pytest.mark.parametrize("pre", BYTE_LEVEL)
@given(text=TEXTS)
def test_any_text_survives_the_round_trip(pre: str, text: str) -> None:
    tokenizer = TOKENIZERS.get(pre) or TOKENIZERS.setdefault(pre, load(WORDS, pre=pre))
    tokens = tokenizer.encode(text)
    assert decode(tokenizer, tokens) == text
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, tokens)) + detokenizer.finish() == text


def test_every_token_stands_for_its_bytes() -> None:
    added = [("<|end|>", CONTROL), ("\u0120x", USER_DEFINED), ("\u0120y", UNUSED), ("<0x0A>", BYTE)]
    odd = ["a b", "\u00a0\u2581", "\u65e5\u0120", "<0x0B>", ""]
    tokenizer = load([("\n", "\n")], [*added, *((text, NORMAL) for text in odd)])
    assert [tokenizer.token_bytes(token) for token in range(256)] == [bytes([byte]) for byte in range(256)]
    stands_for = [tokenizer.token_bytes(token) for token in range(FIRST, tokenizer.vocabulary_size)]
    assert stands_for[:5] == [b"\n\n", b"", "\u0120x".encode(), b"", b"\n"]
    assert stands_for[5:] == [text.encode() for text in odd]  # nothing that stands for bytes
    for token in (-1, tokenizer.vocabulary_size):
        with pytest.raises(TokenizerError, match=f"token {token} is outside the vocabulary"):
            tokenizer.token_bytes(token)


def test_words_that_are_tokens_need_no_merges_where_the_kind_says_so() -> None:
    made = {"tokens": [*CHARACTERS, "ab"], "token_type": None, "merges": []}
    assert load(pre="llama-bpe", add_bos_token=False, **made).encode("ab abx") == [256, *of_bytes(" abx")]
    assert load(pre="dbrx", **made).encode("ab") == of_bytes("ab")


def test_begin_and_end_tokens() -> None:
    special: list[tuple[str, int]] = [("<s>", CONTROL), ("</s>", CONTROL)]
    keys: dict[str, Any] = {"bos_token_id": FIRST, "eos_token_id": FIRST + 1}
    assert load((), special, **keys).encode("a") == of_bytes("a")
    assert load((), special, add_bos_token=True, **keys).encode("a") == [FIRST, *of_bytes("a")]
    assert load((), special, add_eos_token=True, **keys).encode("a") == [*of_bytes("a"), FIRST + 1]
    for pre in ("llama-bpe", "tekken", "chameleon"):
        assert load((), special, pre=pre, **keys).encode("") == [FIRST]
        assert load((), special, pre=pre, add_bos_token=False, **keys).encode("") == []
    unnamed = load((), special, pre="llama-bpe")  # nothing to add, and none made up
    assert (unnamed.bos_token_id, unnamed.adds_bos, unnamed.encode("")) == (None, False, [])
    assert unnamed.eos_token_ids == {FIRST + 1}  # by its text
    with pytest.raises(TokenizerError, match=r"add_bos_token is true but there is no .*bos_token_id"):
        load(add_bos_token=True)


def test_no_space_is_ever_put_before_the_text() -> None:
    tokenizer = load(add_space_prefix=True)
    assert not tokenizer.adds_space_prefix
    assert tokenizer.encode("a") == of_bytes("a")
    assert decode(tokenizer, of_bytes(" a")) == " a"


def test_control_tokens_are_found_only_on_request_and_never_merged() -> None:
    tokenizer = load([("<", "s"), ("<s", ">")], pre="bloom", token_type=[NORMAL] * 257 + [CONTROL])
    assert tokenizer.encode("a<s>") == [*of_bytes("a"), FIRST, *of_bytes(">")]
    assert tokenizer.encode("a<s>", parse_special=True) == [*of_bytes("a"), FIRST + 1]


def test_added_tokens_are_always_found_and_the_longest_first() -> None:
    added = [("  ", USER_DEFINED), ("    ", USER_DEFINED), ("bc", USER_DEFINED), ("<unk>", UNKNOWN)]
    tokenizer = load([("b", "c"), (" ", "x")], added)
    two_spaces, four_spaces, bc, unknown = range(FIRST + 2, FIRST + 6)
    assert tokenizer.encode("       x") == [four_spaces, two_spaces, FIRST + 1]
    assert tokenizer.encode("abc") == [*of_bytes("a"), bc]
    assert tokenizer.encode("<unk>") == of_bytes("<unk>")
    assert tokenizer.encode("<unk>", parse_special=True) == [unknown]


def test_masks_swallow_the_spaces_before_them() -> None:
    added = [("<mask>", CONTROL)]
    jina, plain = load((), added, pre="jina-v2-de"), load((), added)
    assert jina.encode("a \n<mask> b", parse_special=True) == [*of_bytes("a"), FIRST, *of_bytes(" b")]
    assert plain.encode("a <mask>", parse_special=True) == [*of_bytes("a "), FIRST]
    named = byte_level_metadata((), added, pre="jina-v2-de") | {
        "general.name": "Phi-3"
    }  # the first name counts
    assert load_tokenizer(named).encode("<mask> b", parse_special=True) == [FIRST, *of_bytes(" b")]


def test_a_byte_without_a_token_is_left_out() -> None:
    """As llama.cpp does; Falcon's vocabulary has no form feed."""
    tokens = [character for character in CHARACTERS if character not in "bc"]
    keys: dict[str, Any] = {"tokens": [*tokens, "<unk>", "<0x62>"], "merges": []}
    tokenizer = load(token_type=[NORMAL] * 254 + [UNKNOWN, BYTE], **keys)
    assert tokenizer.encode("abcd") == [tokens.index("a"), tokens.index("d")]
    keys |= {"tokens": [*tokens, "<unk>", "ad"], "merges": ["a d"]}
    tokenizer = load(token_type=[NORMAL] * 254 + [UNKNOWN, NORMAL], **keys)
    assert tokenizer.encode("abd ad") == [*map(tokens.index, "ad\u0120"), 255]  # b keeps a and d apart
    raw = raw_metadata(add_bos_token=False)
    raw["tokenizer.ggml.tokens"][1 + ord("z")] = "<no byte>"
    raw["tokenizer.ggml.token_type"][1 + ord("z")] = NORMAL
    assert load_tokenizer(raw).encode("azy", add_special=False) == [258, 1 + ord("y")]


def test_merges_of_what_is_no_token_come_to_its_bytes() -> None:
    """As in llama.cpp: those bytes whose characters are ASCII."""
    tokens = [*CHARACTERS, "xab"]
    keys: dict[str, Any] = {
        "tokens": tokens,
        "token_type": None,
        "merges": ["a b", "x ab", "\u0120 y", "b c d"],
    }
    tokenizer = load(**keys)
    assert tokenizer.encode("ab xabab yz") == [*of_bytes("ab "), FIRST, *of_bytes("abyz")]
    assert tokenizer.encode("bcd") == of_bytes("bcd")
    raw = load_tokenizer(raw_metadata(merges=["\u2581 b", "\u2581b a"], add_bos_token=False))
    assert raw.encode(" bé", add_special=False) == [*(1 + byte for byte in "\u2581b".encode()), 260]
    with pytest.raises(TokenizerError, match="merges names 'ab', which is no token"):
        load(pre="youtu", **keys)


def test_kimi_k2_needs_no_merges() -> None:
    assert load(pre="kimi-k2", merges=None).encode("ab") == of_bytes("ab")


def test_a_text_beyond_what_the_library_can_cut_is_refused() -> None:
    tokenizer = load([(" ", " "), ("  ", "  ")])
    with pytest.raises(TokenizerError, match=r"the text has 4000001 characters in a row .* at most 4000000"):
        tokenizer.encode(" " * 4_000_001)
    assert len(tokenizer.encode(" " * 100_001)) == 25_001


def test_nothing_of_the_library_that_downloads_is_loaded() -> None:
    program = (
        "import sys, tplaunch.launcher.cli; print({'huggingface_hub', 'jinja2', 'rich'} & {*sys.modules})"
    )
    assert subprocess.check_output((sys.executable, "-c", program), text=True, cwd=REPOSITORY) == "set()\n"


def test_the_first_of_duplicate_tokens_and_of_duplicate_merges_counts() -> None:
    tokenizer = load(tokens=[*CHARACTERS, "ab", "ab"], token_type=None, merges=["a b"])
    assert tokenizer.encode("ab") == [FIRST]
    assert tokenizer.token_bytes(FIRST + 1) == b"ab"
    twice = load([("a", "b"), ("b", "c"), ("a", "b")])
    assert twice.encode("abc") == [FIRST, *of_bytes("c")]


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert load().encode("a\udcff") == of_bytes("a\ufffd")


def raw_metadata(**keys: Any) -> dict[str, Any]:
    """A vocabulary of UTF-8 with U+2581 for spaces, as gemma4 has it."""
    tokens = ["<bos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", "a", "b", "é", "ab", "\u2581ab", "\n", "\n\n", "\n\n\n"]
    values = {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": [CONTROL] + [BYTE] * 256 + [NORMAL] * 9,
        "merges": ["a b", "\u2581 ab", "\n \n"],
        "bos_token_id": 0,
    } | keys
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def test_gemma_4_merges_characters_and_falls_back_to_bytes() -> None:
    tokenizer = load_tokenizer(raw_metadata(add_bos_token=False))
    space, a, b, accented, ab, space_ab, newline, two, three = range(257, 266)
    assert tokenizer.encode("ab ab") == [0, ab, space_ab]  # whatever add_bos_token says
    assert tokenizer.encode("é a\n", add_special=False) == [accented, space, a, newline]
    assert tokenizer.encode("b€<0x0A>", add_special=False) == [b, *(1 + byte for byte in "€<0x0A>".encode())]
    assert tokenizer.encode("a\n\n\nb", add_special=False) == [a, three, b]  # though no merge makes it
    assert tokenizer.encode("\n" * 5, add_special=False) == [two, two, newline]
    assert [tokenizer.token_bytes(token) for token in (0, 1, space_ab, three)] == [
        b"",
        b"\0",
        b" ab",
        b"\n\n\n",
    ]
    assert tokenizer.encode("") == [0]


@pytest.mark.parametrize("pre", RAW)
@given(
    text=st.text(
        st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]) | st.sampled_from("ab \n")
    )
)
def test_any_text_survives_the_round_trip_of_raw_kinds(pre: str, text: str) -> None:
    tokenizer = TOKENIZERS.get(pre) or TOKENIZERS.setdefault(
        pre, load_tokenizer(raw_metadata(model="gpt2", pre=pre))
    )
    assert decode(tokenizer, tokenizer.encode(text)) == text


def test_an_unknown_pre_tokenizer_is_refused_by_name_and_a_missing_one_is_the_default() -> None:
    with pytest.raises(
        TokenizerError, match=r"is 'qwen9', which is not known; known: .*llama-bpe.*; --tokens"
    ):
        load(pre="qwen9")
    for pre in (None, "", "default"):
        # Punctuation stands by itself and digits go in threes, which tells it from all others.
        assert load([("!", "!"), ("a", "!"), ("3", "4")], pre=pre).encode("a!!1234") == [
            *of_bytes("a"),
            FIRST,
            *of_bytes("1234"),
        ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pre", 3, "pre is of type int, not the name"),
        ("merges", None, "merges is missing, not a list of pairs"),
        ("merges", "a b", "merges is of type str, not a list of pairs"),
        ("merges", ["a b", 3], "merge 1 of .*merges is of type int"),
        ("merges", ["ab"], "merge 0 of .*merges is 'ab', not two texts with a space"),
        ("merges", ["\udcff b"], "merge 0 of .*merges is '.udcff b', not two texts"),
        ("tokens", None, "tokens is missing"),
        ("tokens", ["a", 3], "token 1 of .*tokens is of type int"),
        ("token_type", [1], "token_type holds 1 values for 256 tokens"),
    ],
)
def test_damage_is_named(key: str, value: object, message: str) -> None:
    metadata = byte_level_metadata() | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(TokenizerError, match=message) as raised:
        load_tokenizer(metadata)
    assert "\n" not in str(raised.value)


def junk() -> st.SearchStrategy[Any]:
    """Values of any type that a GGUF reader could hand over, and some that it couldn't."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    merges = st.lists(st.text("ab \u0120\udcff", max_size=4), max_size=5)
    return scalars | merges | st.lists(scalars, max_size=4) | st.builds(np.ones, st.integers(0, 260))


def test_long_texts_let_other_threads_run() -> None:
    """One client's prompt of megabytes must not stop the texts of all others."""
    tokenizer = load_tokenizer(byte_level_metadata(WORDS, [], pre="gpt-2"))
    text = "when seen " * 60_000
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(tokenizer.encode(text)))
    begin = last = time.monotonic()
    longest = 0.0
    thread.start()
    while thread.is_alive():
        thread.join(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert longest < (last - begin) / 2
    assert found[0] == tokenizer.encode("when seen " * 100) * 600  # which are found another way


KEYS = ["model", "pre", "merges", "tokens", "token_type", "scores", "bos_token_id", "eos_token_id"]


@given(damage=st.dictionaries(st.sampled_from(KEYS), junk(), min_size=1, max_size=3), text=st.text())
def test_a_damaged_key_is_an_error_or_harmless(damage: dict[str, Any], text: str) -> None:
    metadata = byte_level_metadata([("a", "b")], [("<|x|>", CONTROL)])
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in damage.items()}
    expect_error_or_tokens(metadata, text)


@given(
    texts=st.dictionaries(st.integers(0, 260), st.text("<0x>AFab\u0120\u0100\u2581\0", max_size=4)),
    types=st.dictionaries(st.integers(0, 260), st.integers(0, 6)),
    pre=st.sampled_from(sorted(PRE_TOKENIZERS)),
    text=st.text("<0x>AFab \0é"),
)
def test_damaged_entries_are_an_error_or_harmless(
    texts: dict[int, str], types: dict[int, int], pre: str, text: str
) -> None:
    metadata = byte_level_metadata([("a", "b"), ("ab", "a")], [("<|x|>", USER_DEFINED)], pre=pre)
    for key, changes in (("tokens", texts), ("token_type", types)):
        values = metadata[f"tokenizer.ggml.{key}"]
        metadata[f"tokenizer.ggml.{key}"] = [changes.get(place, value) for place, value in enumerate(values)]
    expect_error_or_tokens(metadata, text)
