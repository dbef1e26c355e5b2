"""Reads the lists of hosts that Slurm writes: `node[01-03,07]-ib,login`. It knows text only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MAX_HOSTS = 4096  # of a list; a run takes no more than it has ranks, but may be a part of a larger job
MAX_TEXT = 1 << 16
NAME = re.compile(r"[A-Za-z0-9._:-]+")
PIECES = re.compile(r"[^][,]+|\[[^][]*\]|[][,]")  # text, a bracket with its content, or a mark by itself
RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
COUNTS = re.compile(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?")


def expand_hosts(text: str) -> list[str]:
    """Returns the names in a list of hosts, in its order. Raises ValueError for what is no such list."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a list of hosts of {len(text)} letters; at most {MAX_TEXT} are read")
    names: list[str] = []
    for parts in _words(text):
        ways = [_choices(part) for part in parts]
        for chosen in itertools.product(*ways):
            name = "".join(chosen)
            if not NAME.fullmatch(name):
                raise ValueError(f"{text!r:.80} is no list of hosts: {name!r:.40} is no name")
            names.append(name)
            if len(names) > MAX_HOSTS:
                raise ValueError(f"{text!r:.80} names more than {MAX_HOSTS} hosts")
    return names


def _choices(part: str) -> list[str]:
    """Returns what may stand in a part of a word: the numbers of a bracket, no more than are ever used."""
    if not part.startswith("["):
        return [part]
    return list(itertools.islice(_numbers(part[1:-1]), MAX_HOSTS + 1))


def _words(text: str) -> Iterator[list[str]]:
    """Yields each word between commas outside brackets, cut into text and brackets."""
    word: list[str] = []
    for piece in PIECES.findall(text):
        if piece == ",":
            yield word
            word = []
        elif piece in ("[", "]"):
            raise ValueError(f"{text!r:.80} is no list of hosts: a bracket has no partner")
        else:
            word.append(piece)
    yield word


def _numbers(text: str) -> Iterator[str]:
    """Yields the numbers of ranges such as 01-03,07, each as long as the first of its range is written."""
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"[{text:.60}] is no range of hosts, such as [01-03,07]")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < MAX_HOSTS:
            raise ValueError(f"[{text:.60}] is no range of 1 to {MAX_HOSTS} hosts")
        yield from (str(number).zfill(len(match[1])) for number in range(first, last + 1))


def expand_counts(text: str) -> list[int]:
    """Returns Slurm's counts by node, such as 2(x3),1, one for each. Raises ValueError."""
    counts: list[int] = []
    for part in text.split(","):
        match = COUNTS.fullmatch(part)
        if match is None:
            raise ValueError(f"{text!r:.80} are no tasks by node, such as 1(x2)")
        counts += [int(match[1])] * min(int(match[2] or 1), MAX_HOSTS)
        if len(counts) > MAX_HOSTS:
            raise ValueError(f"{text!r:.80} are tasks of more than {MAX_HOSTS} nodes")
    return counts
