"""Tokens known by their texts: those that end a generation, and those of another type than files say.

Many files name only one of their end tokens, and mark others as ordinary ones. The texts are facts of
ggml-org/llama.cpp (src/llama-vocab.cpp, special_eog_ids); knows no metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from tplaunch.coordinator.text.token_type import TokenType

# These keys name tokens that end a generation: of the text, a turn, a message, and of what was filled in.
_FILL_END_KEYS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id", *_FILL_END_KEYS)


def _texts(names: str) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names.split())


# A chat model ends its turn with one of these.
_ENDS = _texts(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <end_of_utterance>"
    " <EOT> _<EOT> [EOT] [EOS] <eos> </s> <turn|> <|tool_response> [e~[ <|return|> <|call|> <|calls|>"
    " <|flush|> <\uff5cend\u2581of\u2581sentence\uff5c>"
)
# A code model, asked to fill in what lies between two pieces, reads and writes these. The texts mean
# something only where no key names the token; keys before the newer ones are those of older files.
_FILLS = {
    ("prefix_token_id", "fim_pre_token_id"): _texts(
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim\u2581begin\uff5c> <PRE> \u2581<PRE>"
        " <|code_prefix|> <|prefix|>"
    ),
    ("suffix_token_id", "fim_suf_token_id"): _texts(
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim\u2581hole\uff5c> <SUF> \u2581<SUF>"
        " <|code_suffix|> <|suffix|>"
    ),
    ("middle_token_id", "fim_mid_token_id"): _texts(
        "<|fim_middle|> <fim-middle> <fim_middle> <\uff5cfim\u2581end\uff5c> <MID> \u2581<MID>"
        " <|code_middle|> <|middle|>"
    ),
    ("fim_pad_token_id",): _texts("<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]"),
    ("fim_rep_token_id",): _texts("<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>"),
    ("fim_sep_token_id",): _texts("<|file_sep|>"),
}
KEYS = (*_END_KEYS, *(key for keys in _FILLS for key in keys if key not in _END_KEYS))
# gpt-oss writes these between the parts of its answer; whoever reads the answer needs them.
_SHOWN = _texts("<|channel|> <|message|> <|start|> <|constrain|>")
# Where a turn has several messages, <|end|> ends but one of them (gpt-oss, Solar Open).
_MESSAGE_END = _texts("<|end|>")
_TURNS_OF_MESSAGES = (_texts("<|return|>"), _texts("<|flush|>"))
_CALLS = _texts("<|call|> <|calls|>")
# Beside these </s> is an HTML tag: it ends struck text.
_STRIKE_TAG_END = _texts("</s>")
_OTHER_ENDS = _texts("<|tool_response> <|plamo:eos|>")

_KNOWN = _ENDS.union(_SHOWN, *_FILLS.values())


def find_ends(
    texts: Sequence[bytes], types: npt.NDArray[Any], named: Mapping[str, int | None]
) -> frozenset[int]:
    """The ids that end a generation; types, int64 [size], gets what the known tokens really are.

    named: the ids that the file gives for KEYS.
    """
    known = [(token, text) for token, text in enumerate(texts) if text in _KNOWN]

    def of(some: frozenset[bytes]) -> set[int]:
        return {token for token, text in known if text in some}

    control, fill_ends = of(_ENDS), set()
    for keys, fills in _FILLS.items():
        if all(named.get(key) is None for key in keys):
            control |= of(fills)
            fill_ends |= of(fills) if keys[0] in _FILL_END_KEYS else set()
    ends = of(_ENDS) | fill_ends | {token for key in _END_KEYS if (token := named.get(key)) is not None}
    types[list(control)] = TokenType.CONTROL
    types[list(of(_SHOWN))] = TokenType.USER_DEFINED
    if of(_CALLS) and any(map(of, _TURNS_OF_MESSAGES)):
        ends -= of(_MESSAGE_END)
        types[list(of(_MESSAGE_END))] = TokenType.USER_DEFINED
    if any(texts[token] in _OTHER_ENDS for token in ends):
        ends -= of(_STRIKE_TAG_END)
        types[list(of(_STRIKE_TAG_END))] = TokenType.NORMAL
    return frozenset(ends)
