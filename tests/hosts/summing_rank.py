"""One rank of a collective between hosts as a process of its own: `python -m tests.hosts.summing_rank ...`.

Prints its endpoint, and reads all endpoints, in JSON. Then each line of its input is a number: so many
checked all-reduces of many sizes, after which it prints `ran`, or the error. It ends with its input.
"""

import json
import sys

from tests.unit.collectives_group import checked_all_reduce
from tplaunch import collectives
from tplaunch.collectives import CollectiveError

TOKEN = b"a token of a run"
MOST_ELEMENTS = 60_000
SEQUENCES_OF_SIZES = 7  # small ones in between, as in decode


def main(kind: str, address: str, rank: int, hosts: list[int], timeout_seconds: float) -> None:
    collective = collectives.create(
        kind,
        rank=rank,
        num_ranks=len(hosts),
        hosts=hosts,
        slot_bytes=4 * MOST_ELEMENTS,
        token=TOKEN,
        timeout_seconds=timeout_seconds,
        address=address,
    )
    print(json.dumps(collective.endpoint), flush=True)
    try:
        collective.connect(json.loads(sys.stdin.readline()))
        print("ran", flush=True)
        sequence = 0
        for line in sys.stdin:
            for _ in range(int(line)):
                sequence += 1
                checked_all_reduce(collective, sequence, 1 + 9973 * (sequence % SEQUENCES_OF_SIZES))
            print("ran", flush=True)
    except CollectiveError as error:
        print(f"{type(error).__name__} of rank {error.rank}: {error}", flush=True)
    finally:
        collective.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]), float(sys.argv[5]))
