"""One rank as a process of its own, driven line by line: JSON in, JSON out.

Prints its endpoint; reads all endpoints; runs `num_calls` checked all-reduces and reports; reads one line
and then makes one more call, in which a peer may be missing; closes, and reports what it left behind.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.unit.collectives_group import checked_all_reduce, create, open_things
from tplaunch import collectives


def count_of(sequence: int) -> int:
    return 1 + 37 * sequence % 5000


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def main(kind: str, rank: int, num_ranks: int, timeout_seconds: float, num_calls: int, folder: str) -> None:
    before = open_things()
    collective = create(
        kind,
        rank=rank,
        num_ranks=num_ranks,
        slot_bytes=20_000,
        token=b"a token of a run",
        timeout_seconds=timeout_seconds,
        folder=Path(folder) if folder else None,
    )
    say(collective.endpoint)
    collective.connect(json.loads(sys.stdin.readline()))
    for sequence in range(1, num_calls + 1):
        checked_all_reduce(collective, sequence, count_of(sequence))
    say("ran")
    sys.stdin.readline()
    try:
        checked_all_reduce(collective, num_calls + 1, count_of(num_calls + 1))
        say("ran")
    except collectives.CollectiveError as error:
        say([type(error).__name__, error.rank, str(error)])
    collective.close()
    say({"before": before, "after": open_things()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
