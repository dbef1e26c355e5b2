"""Decides whether ranks that have failed are started again, and which requests are not tried again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tplaunch.coordinator.serving.request import Request


@dataclass(frozen=True)
class RestartPolicy:
    """How often ranks are started again within some time, and how long is waited before each of these."""

    most: int = 3
    within_seconds: float = 600.0
    delays: tuple[float, ...] = (0.0, 2.0, 8.0)  # seconds; the last one for all that follow

    @property
    def limit(self) -> str:
        """The limit, to end a sentence."""
        return f"{self.most} restarts within {self.within_seconds:.0f} s are the most"


class Restarts:
    """Counts what ranks have failed at. policy: None for no restart at all."""

    def __init__(self, policy: RestartPolicy | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy, self._clock = policy, clock
        self.num = 0  # that there were
        self._times: deque[float] = deque()  # of those that count against the limit
        self._num_tokens: dict[Request, int] = {}  # of those whose step failed, when it did

    def delay(self) -> float | None:
        """Takes note of a failure; returns the seconds until the restart, None where there is to be none."""
        if self.policy is None:
            return None
        now = self._clock()
        while self._times and now - self._times[0] >= self.policy.within_seconds:
            self._times.popleft()
        if len(self._times) >= self.policy.most:
            return None
        delay = self.policy.delays[min(len(self._times), len(self.policy.delays) - 1)]
        self._times.append(now)
        self.num += 1
        return delay

    def suspects(self, in_step: Iterable[Request]) -> list[Request]:
        """Takes note of the requests whose step failed, and returns those that are not to be tried again.

        Their step has failed twice, without a token of theirs in between: one of them may make the ranks fail
        each time, and none of the others would ever end. Where some of them have no token at all, it is
        only these, since the others were computed well before they came.
        """
        found = []
        for request in in_step:
            num_tokens = sum(len(output.token_ids) for output in request.outputs)
            if self._num_tokens.get(request) == num_tokens:
                found.append(request)
            self._num_tokens[request] = num_tokens
        found = [request for request in found if not self._num_tokens[request]] or found
        for request in [one for one in self._num_tokens if one.is_finished or one in found]:
            del self._num_tokens[request]
        return found
