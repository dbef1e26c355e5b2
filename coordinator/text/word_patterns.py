r"""Regular expressions that cut text into words, for the kinds of pre-tokenizer that llama.cpp knows.

The expressions are facts of ggml-org/llama.cpp (src/llama-vocab.cpp and src/unicode.cpp), written anew for
Oniguruma, which the tokenizers library uses. Where llama.cpp reads its own expressions in another way than
they are written, its way is kept: \p{Lu}, \p{Ll} and so on are \p{L} to it, white space is in no range of
characters, and \d and \b know ASCII only. Each pattern is matched within what earlier ones left.
"""

from __future__ import annotations

import re

# Assigned by Unicode 16, which the library knows; llama.cpp knows 15.1, where these are of no category.
_NEW = (
    "897 1B4E-1B4F 1B7F 1C89-1C8A 2427-2429 31E4-31E5 A7CB-A7CD A7DA-A7DC 105C0-105F3 10D40-10D8F",
    "10EC2-10EFC 11380-113E2 116D0-116E3 11BC0-11BF9 11F5A 13460-143FA 16100-16139 16D40-16D79 18CFF",
    "1CC00-1CEB3 1E5D0-1E5FF 1F8B2-1F8C1 1FA89 1FA8F 1FABE 1FAC6 1FADC-1FADF 1FAE9 1FBCB-1FBEF",
)


def without_new_characters(pattern: str) -> str:
    """The expression with the categories of characters that llama.cpp knows."""
    pattern = re.sub(r"\\p\{\w\}", lambda found: f"[{found[0]}&&[^{_ranges(*_NEW)}]]", pattern)
    return re.sub(r"\\P\{\w\}", lambda found: f"[{found[0]}{_ranges(*_NEW)}]", pattern)


def _ranges(*ranges: str) -> str:
    """The inside of a character class, of hexadecimal ranges such as "41-5A B5"."""
    parts = (part.split("-") for text in ranges for part in text.split())
    return "".join("-".join(rf"\x{{{end}}}" for end in ends) for ends in parts)


def _words(*alternatives: str, breaks: str = r"\s*[\r\n]+", spaces: str = r"\s+(?!\S)|\s+") -> str:
    """Alternatives, then white space: up to the last line break; else all but the space before a word."""
    return "|".join((*alternatives, breaks, spaces))


DIGIT, DIGITS, THREE_DIGITS = r"\p{N}", r"\p{N}+", r"\p{N}{1,3}"
THREE_ASCII_DIGITS = "[0-9]{3}"
NEWLINE, NEWLINES = r"[\r\n]", r"\n+"

_CONTRACTION = "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_WORD, _MARKED_WORD = _PREFIX + r"\p{L}+", _PREFIX + r"[\p{L}\p{M}]+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_LINE_SYMBOLS, _PATH_SYMBOLS = _SYMBOLS + r"[\r\n]*", _SYMBOLS + r"[\r\n/]*"

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PUNCTUATION = r"[\p{P}$+<=>^~|]+"
FALCON_PUNCTUATION = r"[\p{P}$+<=>^~|`]+"

LLAMA_3 = _words(_CONTRACTION, _WORD, THREE_DIGITS, _LINE_SYMBOLS)
QWEN_2 = _words(_CONTRACTION, _WORD, DIGIT, _LINE_SYMBOLS)
QWEN_35 = _words(_CONTRACTION, _MARKED_WORD, DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*")
MINICPM_5 = _words(_CONTRACTION, _WORD, DIGITS, _LINE_SYMBOLS)
SEED_CODER = _words(_CONTRACTION, _WORD, DIGIT, _SYMBOLS)
BAILING = _words(_CONTRACTION, _WORD, DIGIT, _LINE_SYMBOLS, breaks=r"\s*[\r\n]")
UFAKZEKA = _words(_WORD, DIGIT, _LINE_SYMBOLS)
JAIS_2 = _words(
    *(_CONTRACTION, _WORD, THREE_DIGITS, _LINE_SYMBOLS),
    breaks=r"(?<![^\S\r\n])\s*[\r\n]+",  # not looked for again after each part of a run of spaces
    spaces="|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")) + r"|\s",
)
EXAONE_MOE = _words(
    *(_CONTRACTION, _PREFIX + r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", DIGIT, _SYMBOLS + r"[\r\n/]?"),
    breaks=r"\s*[\r\n]",
)


def _cased(letters: str, ending: str = "") -> str:
    """Words that end before a capital. As in llama.cpp, all but a-z are upper case and all but A-Z lower."""
    upper, lower = f"[{letters}&&[^a-z]]", f"[{letters}&&[^A-Z]]"
    return f"{_PREFIX}{upper}*{lower}+{ending}|{_PREFIX}{upper}+{lower}*{ending}"


_ENDING = f"(?:{_CONTRACTION})?"
TEKKEN = _words(_cased(r"\p{L}"), DIGIT, _PATH_SYMBOLS)
GPT_4O = _words(_cased(r"\p{L}", _ENDING), THREE_DIGITS, _PATH_SYMBOLS)
GRANITE = _words(_cased(r"\p{L}\p{M}", _ENDING), THREE_DIGITS, _PATH_SYMBOLS)
TINY_AYA = _words(_MARKED_WORD + _ENDING, THREE_DIGITS, _PATH_SYMBOLS)
YOUTU = _words(_MARKED_WORD + _ENDING, DIGIT, _PATH_SYMBOLS)

# Digits in threes counted from the right; what stands before them stays with the first group.
THREES_FROM_RIGHT = r"\G(?:\P{N}*+(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})*+(?!\p{N}))|\P{N}*+\p{N}{3})"
# The same of ASCII digits, but what follows a group stays with it, up to the next one.
_BEFORE_GROUPS = r"[0-9]{1,2}(?=(?:[0-9]{3})*+(?![0-9]))"
_NO_GROUPS = rf"(?:[^0-9]++(?:{_BEFORE_GROUPS})?)"
BEFORE_THREES = rf"\G(?:(?<![0-9]){_BEFORE_GROUPS}{_NO_GROUPS}*+|[0-9]{{3}}{_NO_GROUPS}*+|{_NO_GROUPS}++)"

# A symbol takes the letters after it, as in .append and #include.
_CODE = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+", r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+")
DEEPSEEK_3 = _words(*_CODE, r" ?[\p{P}\p{S}]+[\r\n]*")
SPARK = _words(*_CODE, r" ?[\p{P}\p{S}]+", breaks=NEWLINE)

CJK_AND_KANA = f"[{_ranges('4E00-9FA5 3040-30FF')}]+"
# llama.cpp's source has U+8C48, where U+F900, which Unicode normalises to it, was probably meant.
UNSPACED_SCRIPTS = "[{}]+".format(
    _ranges(
        "4E00-9FFF 3400-4DBF 8C48-FAFF 3040-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF",
        "1000-109F AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF",
    )
)
YOUTU_SCRIPTS = "|".join(
    f"[{_ranges(ranges)}]+"
    for ranges in (
        "AC00-D7A3 3131-318E",
        "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F",
        "3105-312F",
        "4E00-9FA5 3040-30FF",
    )
)

# What deepseek-llm takes for a letter: most letters with case, but no Armenian small ones, say.
_DEEPSEEK_LETTERS = _ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A",
    "38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF",
    "1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D",
    "1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4",
    "1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F",
    "2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2-2CF3 A640-A66D A680-A69B A722-A76F",
    "A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3",
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943",
)
_DEEPSEEK_PUNCTUATION = _ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3001-3002")
DEEPSEEK_WORDS = (
    *(NEWLINE, rf"\s?[{_DEEPSEEK_LETTERS}]+", rf"\s?[{_DEEPSEEK_PUNCTUATION}]+", r"\s+\z"),
    *(rf"[{_ranges('800-9FA5 AC00-D7FF')}&&\S]+", DIGITS),
)
DEEPSEEK_CODE = (NEWLINE, r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_WORDS[-2], DIGIT)

_HAN = _ranges("4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2EBEF F900-FAFF 2F800-2FA1F")
KIMI_K2 = _words(
    *(f"[{_HAN}]+", rf"{_PREFIX}[\p{{L}}&&[^{_HAN}]]+{_ENDING}", THREE_DIGITS, _LINE_SYMBOLS),
)
SENTENCE_PARTS = rf" ?[^(\s|.,!?{_ranges('2026 3002 FF0C 3001 964 6D4 60C')})]+"
CHAMELEON = (
    *("<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", r"[\t\n]|    |  ", DIGIT),
    *(r"[\p{P}!-/:-@\[-`{-~]", GPT_2),
)
