"""Log probabilities in OpenAI's two forms: that of chats, and the older one of completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, TypeAlias

from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.text.detokenizer import WithControlTokens
from tplaunch.coordinator.text.tokenizer import Tokenizer

Form: TypeAlias = "dict[str, list[Any]]"
FORM = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
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

    def __init__(self, tokenizer: Tokenizer | None, num_top: int, *, shows_control: bool = False) -> None:
        """shows_control: the text that is generated shows control tokens by their names."""
        self._names, self._num_top, self._offset = TokenNames(tokenizer), num_top, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokenizer, self._shows_control = tokenizer, shows_control
        self._drops_space = False

    def add_prompt(self, picked: Sequence[Picked | None], tokens: Sequence[int]) -> Form:
        """Returns the form of the prompt's tokens, where the text shows them. picked: the first has none."""
        self._drops_space = self._tokenizer is not None and self._tokenizer.adds_space_prefix
        form = self._form(picked, tokens, shows_control=False)
        self._drops_space = False
        return form

    def add(self, picked: Sequence[Picked | None], tokens: Sequence[int]) -> Form:
        """Returns the form of the next generated tokens. picked: None for one that has no log probability."""
        return self._form(picked, tokens, shows_control=self._shows_control)

    def add_end(self) -> Form:
        """Returns the form of a text that the model ended at once: an entry that no log probability is of."""
        end = None if self._tokenizer is None else self._tokenizer.eos_token_id
        text = "" if end is None else self._names.text_of(end)
        return {
            "tokens": [text],
            "token_logprobs": [None],
            "top_logprobs": [{}],
            "text_offset": [self._offset],
        }

    def _form(self, picked: Sequence[Picked | None], tokens: Sequence[int], *, shows_control: bool) -> Form:
        form: Form = {name: [] for name in FORM}
        for one, token in zip(picked, tokens, strict=True):
            form["tokens"].append(self._names.text_of(token))
            form["token_logprobs"].append(None if one is None else _finite(one.logprob))
            form["top_logprobs"].append(None if one is None else self._top(one))
            form["text_offset"].append(self._offset)
            self._offset += self._width(token, shows_control)
        return form

    def _width(self, token: int, shows_control: bool) -> int:
        """The number of characters that a token adds to the text."""
        if self._tokenizer is None or not 0 <= token < self._tokenizer.vocabulary_size:
            return 0
        found = self._names.bytes_of(token) if shows_control else self._tokenizer.token_bytes(token)
        if self._drops_space and found:  # the one that encoding puts before a text
            found, self._drops_space = found.removeprefix(b" "), False
        return len(self._decoder.decode(found))

    def _top(self, picked: Picked) -> dict[str, float]:
        """Returns the likeliest tokens and the token itself; of two with the same text the likelier one."""
        found: dict[str, float] = {}
        for token, logprob in (*picked.top[: self._num_top], (picked.token, picked.logprob)):
            text, value = self._names.text_of(token), _finite(logprob)
            found[text] = max(value, found.get(text, value))
        return found


def _finite(logprob: float | None) -> float:
    return FLOOR if logprob is None else max(FLOOR, logprob)
