"""The begin token of prompts: each has it exactly once, and an entry of its own where the client wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.server.answer import Answer
from tplaunch.coordinator.text.tokenizer import Tokenizer, decode


class _Begun(tuple[int, ...]):
    """Token ids whose first one the server has put before those of the client."""


class _Named(str):
    """A text behind the begin token's name, with which the client's text began."""


def with_begin(
    prompt: str | Sequence[int], tokenizer: Tokenizer | None, *, to_tokens: bool, to_texts: bool
) -> str | Sequence[int]:
    """Returns a prompt as it is to be computed, of a model whose texts begin with such a token.

    A text that begins with the token's name, as chat templates write it, has it by that. to_tokens: token
    ids that lack it get it. to_texts: texts get it, by their tokenizer.
    """
    begin = None if tokenizer is None or not tokenizer.adds_bos else tokenizer.bos_token_id
    if tokenizer is None or begin is None:
        return prompt
    if isinstance(prompt, str):
        name = tokenizer.token_text(begin)
        is_named = to_texts and bool(name) and prompt.startswith(name)
        return _Named(prompt.removeprefix(name)) if is_named else prompt
    return _Begun((begin, *prompt)) if to_tokens and begin not in prompt[:1] else prompt


def num_ours(answer: Answer, tokenizer: Tokenizer | None, *, to_texts: bool) -> int:
    """Returns the number of tokens that the server has put before a client's prompt.

    They have no entry: a client that counts the tokens of its own text would be one off.
    """
    if isinstance(answer.prompt, _Begun):
        return 1
    is_text = answer.prompt_text is not None and not isinstance(answer.prompt_text, _Named)
    return int(is_text and to_texts and tokenizer is not None and tokenizer.adds_bos)


def text_of(answer: Answer, tokenizer: Tokenizer | None) -> str:
    """Returns a prompt as the client wrote it; of token ids, their text."""
    if tokenizer is None or type(answer.prompt_text) is str:
        return answer.prompt_text or ""
    if isinstance(answer.prompt_text, _Named):
        return tokenizer.token_text(answer.prompt[0]) + answer.prompt_text
    return decode(tokenizer, answer.prompt)
