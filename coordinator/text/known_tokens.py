"""Tokens known by their texts: those that end a generation, and those that are control tokens anyway.

Many files name only one of their end tokens, and mark others as ordinary ones. The texts are facts of
ggml-org/llama.cpp (src/llama-vocab.cpp, special_eog_ids); knows no metadata.
"""

from __future__ import annotations

from collections.abc import Collection

# A chat model ends its turn with one of these.
_TURN_ENDS = (
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <end_of_utterance>"
    " <EOT> _<EOT> [EOT] [EOS] <eos> <turn|> <|tool_response> [e~[ <|return|> <|call|> <|calls|> <|flush|>"
    " <\uff5cend\u2581of\u2581sentence\uff5c>"
)
# A code model, asked to fill in what lies between two pieces, writes one of these when it has.
_FILL_ENDS = (
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>"
    " <|file_sep|>"
)
_FILL_MARKS = (
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim\u2581begin\uff5c> <PRE> \u2581<PRE> <|code_prefix|>"
    " <|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim\u2581hole\uff5c> <SUF> \u2581<SUF> <|code_suffix|>"
    " <|fim_middle|> <fim-middle> <fim_middle> <\uff5cfim\u2581end\uff5c> <MID> \u2581<MID> <|code_middle|>"
    " <|prefix|> <|suffix|> <|middle|>"
)


def _texts(names: str) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names.split())


ENDS = _texts(_TURN_ENDS + " " + _FILL_ENDS)
CONTROL = ENDS | _texts(_FILL_MARKS)
# An end only where the file says that it is a control token: elsewhere it is an HTML tag.
STRIKE_TAG_END = b"</s>"


def not_ends(texts: Collection[bytes]) -> frozenset[bytes]:
    """Which known texts end no generation where these are tokens.

    Where a turn has several messages, <|end|> ends but one of them (gpt-oss, Solar Open).
    """
    calls = {b"<|call|>", b"<|calls|>"} & set(texts)
    return frozenset({b"<|end|>"} if calls and {b"<|return|>", b"<|flush|>"} & set(texts) else ())
