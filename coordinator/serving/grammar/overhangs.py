"""The tokens of a vocabulary that bring the end of a marker and more behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class Overhangs:
    """Finds such tokens once for a vocabulary: it may have some hundred thousand."""

    def __init__(self, tokens: Sequence[bytes], markers: Sequence[str], starts: Sequence[bytes]) -> None:
        """tokens: the bytes of each. starts: what may begin a text, perhaps behind white space."""
        begins = tuple(starts)
        bare = [
            token
            for token, text in enumerate(tokens)
            if begins and text not in begins and text.lstrip().startswith(begins)
        ]
        self.bare: Ids = np.array(bare, np.int64)  # tokens that begin so and go on, or have space before it
        found: dict[tuple[str, int], list[int]] = {}
        within: list[int] = []
        for marker in markers:
            shown = marker.encode()
            # The token's first bytes are the marker's last ones, as many as possible or fewer.
            ends = [re.escape(shown[-size:]) for size in range(1, len(shown) + 1)]
            ending = re.compile(b"|".join(ends), re.DOTALL)
            for token, text in enumerate(tokens):
                if ending.match(text):
                    for size in range(1, min(len(shown), len(text) - 1) + 1):
                        if text.startswith(shown[-size:]):
                            found.setdefault((marker, size), []).append(token)
                place = text.find(shown, 1)
                if 0 < place < len(text) - len(shown):
                    within.append(token)
        self._behind: Mapping[tuple[str, int], Ids] = {
            key: np.array(ids, np.int64) for key, ids in found.items()
        }
        self.within: Ids = np.array(
            sorted(set(within)), np.int64
        )  # the whole marker, with text on both sides

    def behind(self, marker: str, size: int) -> Ids | None:
        """The tokens that begin with so many of the marker's last bytes, and then go on."""
        return self._behind.get((marker, size))
