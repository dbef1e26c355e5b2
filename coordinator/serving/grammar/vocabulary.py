"""A model's vocabulary as llguidance reads it: the bytes of each token, and the names of control tokens."""

from __future__ import annotations

from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError


class Words:
    """What llguidance asks of a tokenizer.

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

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text, by which llguidance finds those that a grammar leaves no choice about."""
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        try:
            tokens = self._tokenizer.encode(shown, add_special=False)
        except TokenizerError:  # its vocabulary has no way to write it
            return []
        return [token for token in tokens if token < self.eos_token_id]
