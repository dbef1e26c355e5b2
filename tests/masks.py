"""Runs a text through a grammar, token by token, as a model would write it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import llguidance


class ByteTokens:
    """A vocabulary of the 256 bytes, of control tokens, and of an end token."""

    bos_token_id = None

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        self.eos_token_id = 256 + len(control_tokens)
        names = sorted(control_tokens, key=control_tokens.__getitem__)
        assert [control_tokens[name] for name in names] == list(range(256, self.eos_token_id))
        self.tokens = [*(bytes([byte]) for byte in range(256)), *(name.encode() for name in names), b"</eos>"]
        self.special_token_ids = [*range(256, self.eos_token_id + 1)]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def accepts(grammar: str, text: str, control_tokens: Mapping[str, int]) -> str:
    """Returns the beginning of a text that a grammar accepts; all of it only if it may end there."""
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(ByteTokens(control_tokens)))
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    names = sorted(control_tokens, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    tokens = [
        token
        for part in parts
        for token in ([control_tokens[part]] if part in control_tokens else part.encode())
    ]
    num_taken = matcher.try_consume_tokens(tokens)
    if num_taken == len(tokens) and matcher.is_accepting():
        return text
    return (
        b"".join(tokenizer.decode_bytes([token]) for token in tokens[:num_taken]).decode(errors="replace")
        + "…"
    )
