"""How each kind of pre-tokenizer cuts text into words, on texts that tell the kinds apart."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from tplaunch.coordinator.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

KINDS = {kind: name for name, kind in PRE_TOKENIZERS.items()}  # one name each

# "|" between the words. Worked out from llama.cpp's expressions, and compared with its way of matching them.
CASES = [
    ("default", "Hi| there|!| |123|4| |$|5"),
    ("gpt-2", "it|'s| | 1234| I|'m|\n|\n|x"),
    ("starcoder", "x|1|2|3|4| y|'s"),
    ("falcon", "(|a|123|4|)`|b"),
    ("llama-bpe", "I|'M| |123|456|7| | Go|\n\n| x"),
    ("llama-bpe", "a|   \n \n|  | b|!!\n|\u00a0c| "),
    ("dbrx", "x|123|4"),
    ("glm4", "x|'s| |123|4"),
    ("qwen2", "Ab| |1|2|e|\u0301x"),
    ("qwen35", "Ab| |1|2| e\u0301x"),
    ("tekken", "Hello|World| ABCdef|/ÉÀ| |1|2"),
    ("gpt-4o", "Hello|WORLD's| |123|4| a|/b|/\n"),
    ("gpt-4o", "नमस|्त|ेA"),
    ("granite-embed-multi-97m", "नमस्ते|A"),
    ("tiny_aya", "a|1|234|567| x"),
    ("deepseek-llm", "Hello| мир| |你好|12|ա|\n"),
    ("deepseek-llm", "a| !|\u3000|。|\u3000"),
    ("deepseek-coder", "a|.|b| |1|2|\n|你"),
    ("deepseek-v3", "x|.append|(|123|45|)| |你|a| ~~"),
    ("spark2_5", "a|!|\n|\n|1|2"),
    ("afmoe", "a| | |1|234|あア|b"),
    ("youtu", "안녕| |1|2|、|a"),
    ("kimi-k2", "你好|World's| |123|4| |再"),
    ("minicpm5", "123|45| ab"),
    ("bailingmoe", "a|\n\n|b"),
    ("bailingmoe", "a|!\n\n|b"),
    ("exaone-moe", "ab cd|\n\n|./|x"),
    ("seed-coder", "a|!!|\n|b"),
    ("ufakzeka", "I|'m"),
    ("jais-2", "a|    |  | b"),
    ("laguna", "!|\n\n| x"),
    ("superbpe", "1|234|567"),
    ("superbpe", "123|456"),
    ("superbpe", "12३|456|789११"),
    ("llama-bpe", "\U00013460'|s| \U00010d40|1"),  # letter and digit to Unicode 16, not to llama.cpp
    ("bloom", "Hei|,| sinä|!| a"),
    ("viking", "a| |1|2"),
    ("chameleon", "IMGIMGABZ|  | a|1|!|!"),
    ("gemma4", "a b|\n\n|c"),
    ("sarvam-moe", "a b|\n\n|c"),
]


def words(kind: PreTokenizer, text: str) -> list[str]:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in kind.patterns]
    return [word for word, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_words(name: str, cut: str) -> None:
    assert words(PRE_TOKENIZERS[name], cut.replace("|", "")) == cut.split("|")


def test_every_kind_has_a_case() -> None:
    assert {PRE_TOKENIZERS[name] for name, _ in CASES} >= set(KINDS) - {PRE_TOKENIZERS["roberta-bpe"]}


@pytest.mark.parametrize("name", KINDS.values())
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB1 '\n!é你")))
def test_words_make_up_the_text(name: str, text: str) -> None:
    found = words(PRE_TOKENIZERS[name], text)
    assert "".join(found) == text
    assert "" not in found


@pytest.mark.parametrize("name", KINDS.values())
@pytest.mark.parametrize("piece", ["a", "É", " ", "\n ", "!", "1", "aB'", "你"])
def test_long_texts_take_no_time_to_speak_of(name: str, piece: str) -> None:
    """A pattern that looks at the same text again and again would take many seconds."""
    text = piece * (60_000 // len(piece))
    start = time.process_time()
    assert "".join(words(PRE_TOKENIZERS[name], text)) == text
    assert time.process_time() - start < 3


def test_the_longest_word_of_digits_is_cut() -> None:
    """The library gives up after ten million steps back; four million characters are the most it is given."""
    text = "1३" * 2_000_000
    assert words(PRE_TOKENIZERS["superbpe"], text) == [text]


@given(text=st.text("0123३१", min_size=1))
def test_groups_of_three_are_those_of_the_plain_expression(text: str) -> None:
    plain = re.split(r"(?<=.)(?=(?:[0-9]{3})+(?![0-9]))", text)
    assert words(PRE_TOKENIZERS["superbpe"], text) == plain


@given(text=st.text(" \t\n\r\u3000!a'", max_size=30))
def test_line_breaks_are_found_as_by_the_plain_expression(text: str) -> None:
    (pattern,) = PRE_TOKENIZERS["jais-2"].patterns
    guard = r"(?<![^\S\r\n])"
    assert guard in pattern
    assert words(PRE_TOKENIZERS["jais-2"], text) == words(PreTokenizer((pattern.replace(guard, ""),)), text)


def test_flags() -> None:
    def named(flag: str) -> set[str]:
        return {name for name, kind in PRE_TOKENIZERS.items() if getattr(kind, flag)}

    llama_3 = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    llama_3 |= {"jina-v5-nano"}
    assert named("adds_bos") == llama_3 | {"tekken", "chameleon"}
    ignoring = {"glm4", "glm5", "tekken", "youtu", "minicpm5", "granite-embed-multi-97m"}
    assert named("ignores_merges") == llama_3 | ignoring
    assert named("forces_bos") == named("keeps_newlines") == {"gemma4", "granite-embed-multi-311m"}
    assert set(PRE_TOKENIZERS) - named("is_byte_level") == named("forces_bos") | {"sarvam-moe"}
