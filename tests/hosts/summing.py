"""Ranks that do nothing but sum, on the hosts of a network."""

import json
import sys
from collections.abc import Sequence

from tests.hosts.network import Host


class Summing:
    """The ranks, connected; `run` lets all make so many checked all-reduces."""

    def __init__(
        self,
        hosts: Sequence[Host],  # of the ranks
        *,
        kind: str = "shared-memory",
        timeout: float = 60.0,
        connect: bool = True,
    ) -> None:
        numbers = json.dumps([host.number for host in hosts])
        script = (sys.executable, "-m", "tests.hosts.summing_rank")
        self.ranks = [
            host.start(*script, kind, host.address, str(rank), numbers, str(timeout))
            for rank, host in enumerate(hosts)
        ]
        self._num_said = 0  # lines to all
        self.endpoints: list[str] = [
            json.loads(rank.stdout.wait_for(r'".*"\n', 60)[0]) for rank in self.ranks
        ]
        if connect:
            self.begin(self.endpoints)
            self.await_all()

    def begin(self, line: object) -> None:
        """Tells all ranks a line."""
        self._num_said += 1
        for rank in range(len(self.ranks)):
            self.tell(rank, line)

    def tell(self, rank: int, line: object) -> None:
        stdin = self.ranks[rank].process.stdin
        assert stdin is not None
        stdin.write(json.dumps(line) + "\n")
        stdin.flush()

    def await_all(self, timeout: float = 120.0) -> None:
        """Waits until all have run what they were told. AssertionError where one fails."""
        for rank in self.ranks:
            found = rank.stdout.wait_for(rf"(?:ran\n.*?){{{self._num_said}}}|\S+ of rank .*\n", timeout)
            assert found[0].startswith("ran"), found[0]

    def run(self, num_sums: int, timeout: float = 120.0) -> None:
        self.begin(num_sums)
        self.await_all(timeout)

    def error_of(self, rank: int, timeout: float) -> str:
        """Waits for a rank's error."""
        return self.ranks[rank].stdout.wait_for(r"\S+ of rank .*\n", timeout)[0]

    def port(self, rank: int) -> int:
        """Returns where a rank listens."""
        return int(self.endpoints[rank].rsplit(":", 1)[1])
