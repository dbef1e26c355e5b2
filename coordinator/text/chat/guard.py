"""Keeps what people typed from becoming control tokens where a template's own words do."""

from __future__ import annotations

from tplaunch.coordinator.text.tokenizer import Tokenizer

# Stands inside the text of a control token that is to stay text; no text has this character of private use.
_GUARD = "\U0010fff2"


def guarded(tokenizer: Tokenizer, text: str) -> str:
    """The text of a message with a guard inside each control token's text, for a template to write.

    encode_guarded takes the guards away. Raises TokenizerError.
    """
    text = text.replace(_GUARD, "")
    while names := _control_texts(tokenizer, text):
        for name in names:
            text = text.replace(name, name[0] + _GUARD + name[1:])
    return text


def encode_guarded(tokenizer: Tokenizer, rendered: str) -> list[int]:
    """The token ids of a text in which control tokens' texts become these, but for guarded ones."""
    return [
        token
        for piece in rendered.split(_GUARD)
        if piece
        for token in tokenizer.encode(piece, add_special=False, parse_special=True)
    ]


def begins_with_control(tokenizer: Tokenizer, rendered: str) -> bool:
    """Tells whether a control token comes first, so that the text before it is cut off from it anyway."""
    tokens = encode_guarded(tokenizer, rendered[:64])
    return bool(tokens) and not tokenizer.token_bytes(tokens[0])


def _control_texts(tokenizer: Tokenizer, text: str) -> list[str]:
    """Returns the texts of control tokens in a text; longer ones first, as one may be part of another."""
    names = {
        tokenizer.token_text(token)
        for token in encode_guarded(tokenizer, text)
        if not tokenizer.token_bytes(token)
    }
    return sorted((name for name in names if len(name) > 1 and name in text), key=len, reverse=True)
