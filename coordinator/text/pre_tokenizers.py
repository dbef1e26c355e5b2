"""The kinds of pre-tokenizer: how text is cut into words before byte pairs merge, by tokenizer.ggml.pre.

Knows names and flags, as ggml-org/llama.cpp's src/llama-vocab.cpp has them; knows no vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tplaunch.coordinator.text import word_patterns as words


class PreTokenizer(NamedTuple):
    """Cuts text: each pattern cuts the texts that the patterns before it left, at both ends of a match."""

    patterns: tuple[str, ...]
    ignores_merges: bool = False  # a word that is a token is that token, whatever the merges say
    adds_bos: bool = False  # unless the file says otherwise
    forces_bos: bool = False  # whatever the file says
    is_byte_level: bool = True  # else tokens are UTF-8 with U+2581 for spaces, and other bytes are <0xHH>
    needs_no_merges: bool = False  # a file without merges has none
    keeps_newlines: bool = False  # a run of newlines that is a token is that token


def _cut(*patterns: str, **flags: Any) -> PreTokenizer:
    return PreTokenizer(tuple(map(words.without_new_characters, patterns)), **flags)


_BY_NAMES = {
    "default": _cut(words.PUNCTUATION, words.GPT_2, words.DIGITS, words.THREE_ASCII_DIGITS),
    "gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4": _cut(
        words.GPT_2
    ),
    "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe": _cut(words.GPT_2),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": _cut(words.DIGIT, words.GPT_2),
    "falcon": _cut(words.FALCON_PUNCTUATION, words.GPT_2, words.THREE_ASCII_DIGITS),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _cut(
        words.LLAMA_3, ignores_merges=True, adds_bos=True
    ),
    "glm4 glm5": _cut(words.LLAMA_3, ignores_merges=True),
    "dbrx smaug-bpe chatglm-bpe": _cut(words.LLAMA_3),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": _cut(words.QWEN_2),
    "qwen35": _cut(words.QWEN_35),
    "tekken": _cut(words.TEKKEN, ignores_merges=True, adds_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": _cut(words.GPT_4O),
    "granite-embed-multi-97m": _cut(words.GRANITE, ignores_merges=True),
    "tiny_aya cohere2moe": _cut(words.THREES_FROM_RIGHT, words.TINY_AYA),
    "deepseek-llm": _cut(*words.DEEPSEEK_WORDS),
    "deepseek-coder": _cut(*words.DEEPSEEK_CODE),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _cut(
        words.THREE_DIGITS, words.CJK_AND_KANA, words.DEEPSEEK_3
    ),
    "spark2_5": _cut(words.THREE_DIGITS, words.CJK_AND_KANA, words.SPARK, words.DIGIT),
    "afmoe": _cut(words.THREES_FROM_RIGHT, words.UNSPACED_SCRIPTS, words.DEEPSEEK_3),
    "youtu": _cut(words.YOUTU_SCRIPTS, words.YOUTU, ignores_merges=True),
    "kimi-k2": _cut(words.KIMI_K2, needs_no_merges=True),
    "minicpm5": _cut(words.THREE_DIGITS, words.MINICPM_5, ignores_merges=True),
    "bailingmoe bailingmoe2 llada-moe": _cut(words.BAILING),
    "exaone-moe": _cut(words.EXAONE_MOE),
    "seed-coder": _cut(words.SEED_CODER),
    "ufakzeka": _cut(words.UFAKZEKA),
    "jais-2": _cut(words.JAIS_2),
    "laguna": _cut(words.NEWLINES, words.QWEN_2),
    "superbpe": _cut(words.DIGITS, words.BEFORE_THREES),
    "poro-chat bloom gpt3-finnish": _cut(words.SENTENCE_PARTS),
    "viking": _cut(words.SENTENCE_PARTS, words.DIGIT),
    "chameleon": _cut(*words.CHAMELEON, adds_bos=True),
    "gemma4 granite-embed-multi-311m": _cut(
        words.NEWLINES, forces_bos=True, is_byte_level=False, keeps_newlines=True
    ),
    "sarvam-moe": _cut(words.NEWLINES, is_byte_level=False),
}

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: kind for names, kind in _BY_NAMES.items() for name in names.split()
}
