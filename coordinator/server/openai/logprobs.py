"""Log probabilities in OpenAI's two forms: that of chats, and the older one of completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.text.detokenizer import WithControlTokens
from tplaunch.coordinator.text.tokenizer import Tokenizer

FLOOR = -9999.0  # OpenAI's for a token that is all but impossible; JSON has no -inf


class TokenNames:
    """The bytes and the text of tokens; a control token has its name's, one without a text a made-up one."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._size = 0 if tokenizer is None else tokenizer.vocabulary_size
        self._named = None if tokenizer is None else WithControlTokens(tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """Returns the bytes of a token."""
        if self._named is None or not 0 <= token < self._size:
            return f"<token {token}>".encode()
        return self._named.token_bytes(token)

    def text_of(self, token: int) -> str:
        """Returns the text of a token; of one that is part of a character, its bytes as \\x.. each."""
        found = self.bytes_of(token)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def chat_logprobs(picked: Sequence[Picked], names: TokenNames, num_top: int) -> dict[str, Any]:
    """Returns what a choice of a chat has as logprobs."""
    return {
        "content": [
            {
                **_chat_entry(one.token, one.logprob, names),
                "top_logprobs": [_chat_entry(token, logprob, names) for token, logprob in one.top[:num_top]],
            }
            for one in picked
        ],
        "refusal": None,
    }


def _chat_entry(token: int, logprob: float | None, names: TokenNames) -> dict[str, Any]:
    found = names.bytes_of(token)
    text = found.decode("utf-8", "replace")
    return {"token": text, "logprob": _finite(logprob), "bytes": list(found)}


class CompletionLogprobs:
    """Makes the older form, part by part: a text's offsets go on from part to part."""

    def __init__(self, names: TokenNames, num_top: int, offset: int = 0) -> None:
        """offset: characters of the text before the first token."""
        self._names, self._num_top, self._offset = names, num_top, offset

    def add(self, picked: Sequence[Picked | None], tokens: Sequence[int]) -> dict[str, Any]:
        """Returns the form of the next tokens. picked: None for one that has no log probability."""
        form: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one, token in zip(picked, tokens, strict=True):
            text = self._names.text_of(token)
            form["tokens"].append(text)
            form["text_offset"].append(self._offset)
            form["token_logprobs"].append(None if one is None else _finite(one.logprob))
            form["top_logprobs"].append(None if one is None else self._top(one))
            self._offset += len(text)
        return form

    def _top(self, picked: Picked) -> dict[str, float]:
        """The likeliest tokens and the token itself. Of two with the same text the likelier one stays."""
        found: dict[str, float] = {}
        for token, logprob in (*picked.top[: self._num_top], (picked.token, picked.logprob)):
            text, value = self._names.text_of(token), _finite(logprob)
            found[text] = max(value, found.get(text, value))
        return found


def _finite(logprob: float | None) -> float:
    return FLOOR if logprob is None else max(FLOOR, logprob)
