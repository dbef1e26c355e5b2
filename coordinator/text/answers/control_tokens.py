"""The control tokens of a vocabulary as the formats and their grammars need them."""

from __future__ import annotations

from tplaunch.coordinator.text.tokenizer import Tokenizer


def control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids, by their names, of the tokens that stand for no text: what a grammar names by <[id]>."""
    names = {
        tokenizer.token_text(token): token
        for token in range(tokenizer.vocabulary_size)
        if not tokenizer.token_bytes(token)
    }
    return {name: token for name, token in names.items() if name}
