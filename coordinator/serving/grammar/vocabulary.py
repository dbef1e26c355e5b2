"""A model's vocabulary as llguidance reads it: the bytes of each token, and the names of control tokens."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from tplaunch.coordinator.serving.grammar.overhangs import Overhangs
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError

# Of a text that a grammar leaves no choice about, so many characters are looked at for each token.
MAX_FORCED = 256
MAX_OVERHANGS = 16


class Words:
    """The parts of a tokenizer that llguidance asks for.

    A token behind the model's own, `eos_token_id`, stands for the end of the text: which of the model's
    tokens end it is each request's business. Tokens that stand for no text are special ones, which a grammar
    allows only by their names; those beyond the vocabulary, and without a name, are never allowed.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int) -> None:
        """vocabulary_size: the model's, which may be padded."""
        self._tokenizer = tokenizer
        known = range(min(tokenizer.vocabulary_size, vocabulary_size))
        self.tokens = [tokenizer.token_bytes(token) for token in known]
        self.special = {
            token: name for token in known if not self.tokens[token] and (name := tokenizer.token_text(token))
        }
        for token, name in self.special.items():
            self.tokens[token] = name.encode("utf-8", "replace")
        self.tokens += [b""] * (vocabulary_size + 1 - len(self.tokens))
        self.special_token_ids = list(self.special)
        self.eos_token_id = vocabulary_size
        self._by_bytes: dict[bytes, int] | None = None  # made where it is needed
        self._most_bytes = 0
        self._named: re.Pattern[str] | None = None  # the names of control tokens, made where it is needed
        self._by_name: dict[str, int] = {}
        self._overhangs: dict[tuple[tuple[str, ...], tuple[bytes, ...]], Overhangs] = {}

    def overhangs(self, markers: Sequence[str], starts: Sequence[bytes] = ()) -> Overhangs:
        """The tokens that end a marker, or begin with a start, and go on. The last few answers are kept."""
        key = tuple(markers), tuple(starts)
        if key not in self._overhangs:
            if len(self._overhangs) >= MAX_OVERHANGS:
                self._overhangs.clear()
            self._overhangs[key] = Overhangs(self.tokens, *key)
        return self._overhangs[key]

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text whose bytes are just those of the text, or its first ones.

        llguidance asks for them where a grammar leaves no choice, again for each token that it has left to
        come, and counts on the bytes. Tokenizers may add a space, change characters or leave some out; then
        the longest tokens that fit stand for the text.
        """
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        is_cut, shown = len(shown) > MAX_FORCED, shown[:MAX_FORCED]
        wanted = shown.encode("utf-8", "replace")
        tokens = self._exact(shown, wanted) or self._longest(wanted)
        return tokens[:-1] if is_cut and len(tokens) > 1 else tokens

    def spelled(self, text: str) -> list[int]:
        """Tokens whose bytes are the text's; names of control tokens stand for these."""
        if self._named is None:
            names = sorted(self.special.values(), key=len, reverse=True)
            self._named = re.compile(f"({'|'.join(map(re.escape, names))})") if names else re.compile(r"(?!)")
            self._by_name = {name: token for token, name in self.special.items()}
        parts = [part for part in self._named.split(text) if part]
        return [
            token
            for part in parts
            for token in ([self._by_name[part]] if part in self._by_name else self._longest(part.encode()))
        ]

    def _exact(self, shown: str, wanted: bytes) -> list[int]:
        """The tokenizer's own tokens, [] where their bytes are others."""
        for prefix in ("", "\n"):  # a space is put before the newline, and both are left out again
            with contextlib.suppress(TokenizerError):  # the vocabulary has no way to write it
                tokens = self._tokenizer.encode(prefix + shown, add_special=False)
                parts = list(map(self._tokenizer.token_bytes, tokens))
                while prefix and tokens and parts.pop(0) != b"\n":
                    tokens.pop(0)
                tokens = tokens[1:] if prefix else tokens
                if b"".join(parts) == wanted:
                    return tokens
        return []

    def _longest(self, wanted: bytes) -> list[int]:
        if self._by_bytes is None:
            self._by_bytes = {
                shown: token for token, shown in enumerate(self.tokens) if shown and token not in self.special
            }
            self._most_bytes = max(map(len, self._by_bytes), default=0)
        tokens: list[int] = []
        start = 0
        while start < len(wanted):
            for length in range(min(self._most_bytes, len(wanted) - start), 0, -1):
                token = self._by_bytes.get(wanted[start : start + length])
                if token is not None:
                    break
            else:  # no token stands for the byte, and none can be generated for it
                return tokens
            tokens.append(token)
            start += length
        return tokens
