"""The process that compiles grammars first, seen from outside: what is refused, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tplaunch.coordinator.child_process import ChildProcess
from tplaunch.coordinator.serving.grammar.spec import GrammarError, GrammarLimits

CHECKER = Path(__file__).resolve().with_name("checker.py")
MAX_ERROR_CHARACTERS = 300

# llguidance's own limits, on what a grammar grows to as it is compiled and as masks are made of it.
PARSER_LIMITS: Mapping[str, Any] = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 65_536,  # about a KiB each
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": False,  # it took 1.5 GB and five seconds for a?a?a?...
    "verbose_errors": False,  # they would show one client's grammar to whoever reads the log
}


class CheckingProcess:
    """A process that compiles grammars for nothing but to see that it can be done within the limits."""

    def __init__(self, size: int, special: Mapping[int, str], limits: GrammarLimits) -> None:
        """size: of the model's vocabulary. special: the texts of its control tokens."""
        self._limits = limits
        setup = {
            "size": size,
            "special": {str(token): text for token, text in special.items()},
            "parser": dict(PARSER_LIMITS),
            "max_seconds": limits.max_seconds,
            "max_memory": limits.max_memory,
        }
        self._process = ChildProcess(CHECKER, setup)

    def check(self, name: str, grammar: str) -> None:
        """Raises GrammarError where a grammar in llguidance's form can't be enforced within the limits."""
        answer = self._process.ask(json.dumps({"grammar": grammar}).encode() + b"\n")
        if not answer:
            return
        limits, code = self._limits, answer.get("code", -1)
        assert code < 0, f"the process that compiles grammars ended by itself with code {code}"
        reasons = {
            "time": f"compiling it takes more than {limits.max_seconds:g} s of computing time",
            "memory": f"compiling it takes more than {limits.max_memory >> 20} MiB of memory",
            # The stack overflows, or memory runs out where nothing can be told any more.
            "ended": "compiling it takes more memory than it may, or it is nested too deep",
            "refused": sentence(str(answer.get("message"))),
        }
        raise GrammarError(f"the {name} can't be enforced: {reasons[answer['error']]}")

    def close(self) -> None:
        """Ends the process, if there is one; the next check would start another."""
        self._process.close()


def sentence(message: str) -> str:
    """Makes one line of what llguidance says, without what it repeats of the grammar."""
    words = " ".join(message.partition("<non-verbose/>")[0].split())
    return words if len(words) <= MAX_ERROR_CHARACTERS else words[: MAX_ERROR_CHARACTERS - 3] + "..."
