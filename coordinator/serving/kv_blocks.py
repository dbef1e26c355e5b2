"""A pool of equal places that sequences share: blocks of keys and values, or slots of recurrent states.

A place is held by any number of sequences. Once it is complete it can be published under a key, and is then
found again also after the last sequence has let go of it, until its room is wanted: the least recently used
goes first. Knows neither tokens nor devices.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

KEY_BYTES = 16


class Pool:
    """Places 0 .. size - 1. `take` and `share` hold a place, `release` lets go of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._holders = [0] * size
        self._free = list(range(size))[::-1]
        self._kept: OrderedDict[int, None] = OrderedDict()  # published and held by no one, oldest first
        self._key_of: dict[int, bytes] = {}
        self._place_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Places that can be taken now, forgetting what is kept in some of them."""
        return len(self._free) + len(self._kept)

    def take(self) -> int | None:
        """Returns a place with nothing in it; None where every one is held."""
        if self._free:
            place = self._free.pop()
        elif self._kept:
            place, _ = self._kept.popitem(last=False)
            self._forget_key(place)
        else:
            return None
        self._holders[place] = 1
        return place

    def share(self, place: int) -> None:
        """Holds a place that another sequence holds, or that is kept."""
        if not self._holders[place]:
            del self._kept[place]
        self._holders[place] += 1

    def release(self, place: int) -> None:
        assert self._holders[place] > 0, f"place {place} is held by no one"
        self._holders[place] -= 1
        if self._holders[place]:
            return
        if place in self._key_of:
            self._kept[place] = None
        else:
            self._free.append(place)

    def is_fixed(self, place: int) -> bool:
        """Tells whether the place must not be written to: it is published, or another one holds it, too."""
        return self._holders[place] > 1 or place in self._key_of

    def num_holders(self, place: int) -> int:
        return self._holders[place]

    def publish(self, place: int, key: bytes) -> None:
        """Lets a held place be found by its key. The first of equal ones is found; the others are not."""
        if key not in self._place_of and place not in self._key_of:
            self._place_of[key], self._key_of[place] = place, key

    def find(self, key: bytes) -> int | None:
        return self._place_of.get(key)

    def forget(self, place: int) -> None:
        """Lets the place no longer be found."""
        if place in self._key_of:
            self._forget_key(place)
            if place in self._kept:
                del self._kept[place]
                self._free.append(place)

    def _forget_key(self, place: int) -> None:
        del self._place_of[self._key_of.pop(place)]


class ChainedKeys:
    """Keys of a text's blocks: each names its tokens and all before them.

    Where ranks tell prompts apart it also names how many of the tokens were generated: as tokens of a prompt
    they would have other keys and values.

    The digest's own secret, new for every run, keeps a client from making two texts with one key.
    """

    def __init__(self, block_length: int, secret: bytes, tells_prompts_apart: bool = False) -> None:
        self._block_length, self._secret = block_length, secret
        self._tells_prompts_apart = tells_prompts_apart

    def extend(self, keys: list[bytes], tokens: list[int], num_blocks: int, num_prompt: int) -> None:
        """Appends the keys of the first `num_blocks` blocks of tokens that are not there yet.

        num_prompt: tokens that were not generated.
        """
        for index in range(len(keys), num_blocks):
            start = index * self._block_length
            block = np.array(tokens[start : start + self._block_length], np.int32)
            digest = hashlib.blake2b(keys[-1] if keys else b"", digest_size=KEY_BYTES, key=self._secret)
            digest.update(block.tobytes())
            num_generated = start + self._block_length - num_prompt
            if self._tells_prompts_apart and num_generated > 0:
                digest.update(min(num_generated, self._block_length).to_bytes(4, "little"))
            keys.append(digest.digest())
