"""The program of the process that compiles grammars first; coordinator/serving/grammar/process.py starts it.

A grammar comes from a client and is not trusted: it may ask for more time or memory than there is, and one
that is nested deep enough makes the compiler's stack overflow, which no exception tells of. Here that ends
this process alone. It knows no vocabulary but single bytes and the control tokens that a grammar may name.
Imports nothing of tplaunch, so that it starts at once.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# A grammar that just fits into this stack has room to spare in a thread of the process that it is meant for.
STACK_BYTES = 1 << 20
NUM_STEPS = 16  # tokens that are tried behind the compiled grammar


class SingleBytes:
    """A vocabulary of the same size as the model's, of single bytes and of its control tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, size: int, special: dict[str, str]) -> None:
        """special: the texts of control tokens, by their ids."""
        names = {int(token): name.encode("utf-8", "replace") for token, name in special.items()}
        others = (token for token in range(size + 256) if token not in names)
        singles = {next(others): bytes([byte]) for byte in range(256)}
        known = names | singles
        self.tokens = [known.get(token, b"") for token in range(max(size, *known) + 1)]
        self.special_token_ids = list(names)
        self.eos_token_id = len(self.tokens)
        self.tokens.append(b"")
        self._by_byte = {single[0]: token for token, single in singles.items()}

    def __call__(self, text: str | bytes) -> list[int]:
        return [self._by_byte[byte] for byte in (text if isinstance(text, bytes) else text.encode())]


def answer(tokenizer: LLTokenizer, limits: LLParserLimits, grammar: str) -> dict[str, Any]:
    """Returns {} for a grammar that can be enforced, or {"error": "refused", "message": ...}."""
    _, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer, limits=limits)
    if messages:  # a warning says what would not be enforced
        return _refused(messages[0])
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    for _ in range(NUM_STEPS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error():
            return _refused(matcher.get_error())
        token = (mask & -mask).bit_length() - 1
        if matcher.is_stopped() or token in (-1, tokenizer.eos_token) or not matcher.consume_token(token):
            break
    return {}


def _refused(message: str) -> dict[str, Any]:
    return {"error": "refused", "message": message}


def _limit(max_bytes: int) -> None:
    """Allows no more memory than this from here on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > max_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


def serve(setup: dict[str, Any]) -> None:
    """Answers requests until standard input ends."""
    words = SingleBytes(setup["size"], setup["special"])
    tokenizer = LLTokenizer(words)  # type: ignore[arg-type] # it asks for no more
    limits = LLParserLimits(**setup["parser"])
    _limit(setup["max_memory"])
    while line := sys.stdin.buffer.readline():
        signal.setitimer(signal.ITIMER_PROF, setup["max_seconds"])
        try:
            reply = answer(tokenizer, limits, json.loads(line)["grammar"])
        except MemoryError:
            reply = {"error": "memory"}
        except BaseException as error:  # a panic of the compiler, too
            reply = _refused(f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serves in a thread whose stack is small."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # a terminal's keys reach the launcher, too
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process for certain
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    setup = json.loads(sys.stdin.buffer.readline())
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve, args=(setup,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
