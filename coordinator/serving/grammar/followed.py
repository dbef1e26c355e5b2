"""The tokens of a text that a mask has looked at, as more of them come."""

from __future__ import annotations

from collections.abc import Sequence


class Followed:
    """Tells whether what is generated goes on from the tokens that were looked at.

    A list that was given before, and still has the last of these tokens in its place, is taken to have the
    others, too: texts grow to many thousand tokens, and each of them is asked for.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._given: Sequence[int] | None = None

    def goes_on(self, generated: Sequence[int]) -> bool:
        """True where the tokens are the first ones of what is generated."""
        count = len(self.tokens)
        if generated is self._given and list(generated[max(0, count - 1) : count]) == self.tokens[-1:]:
            return True
        self._given = generated
        return list(generated[:count]) == self.tokens

    def clear(self) -> None:
        """Forgets the tokens."""
        self.tokens = []
