"""Compiles grammars for one model's vocabulary: in whatever thread asks, never in the one that steps."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tplaunch.coordinator.serving.grammar.mask import GrammarMask
from tplaunch.coordinator.serving.grammar.process import PARSER_LIMITS, CheckingProcess, sentence
from tplaunch.coordinator.serving.grammar.spec import (
    GrammarError,
    GrammarLimits,
    GrammarSpec,
    choice,
    llguidance_grammar,
)
from tplaunch.coordinator.serving.grammar.vocabulary import Words
from tplaunch.coordinator.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_CACHED = 16  # compiled grammars, and as many reasons why others can't be
# The texts of one compiled grammar share the states of its lexer, which only grow.
MAX_SHARED_TEXTS = 64
QUICK_SECONDS = 0.02  # a grammar compiled within them may be compiled once more where a step waits for it


@dataclass(eq=False)
class Grammar:
    """A Constraint: a text that a grammar allows, and then a token that ends it."""

    spec: GrammarSpec
    vocabulary_size: int
    _matcher: LLMatcher
    _compile: Callable[[], LLMatcher]
    _seconds: float  # that compiling took
    _limits: GrammarLimits
    num_texts: int = field(default=0, init=False)  # that were started
    needs_end: bool = field(default=True, init=False)

    def start(self, vocabulary_size: int, end_ids: frozenset[int]) -> GrammarMask:
        """See Constraint."""
        assert vocabulary_size == self.vocabulary_size, (vocabulary_size, self.vocabulary_size)
        self.num_texts += 1
        own = self._compile if self._seconds <= QUICK_SECONDS else None
        return GrammarMask(self._matcher.deep_copy, vocabulary_size, end_ids, self._limits, own)


class GrammarCompiler:
    """Makes Grammars of GrammarSpecs. Any thread may call it, and waits for what it asks for.

    A second process compiles a grammar before this one does, within limits on time and memory that the kernel
    keeps: whatever a client sends harms its own request only.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary_size: int | None = None, limits: GrammarLimits | None = None
    ) -> None:
        """vocabulary_size: the model's, where it is padded beyond the tokenizer's."""
        self.vocabulary_size = vocabulary_size or tokenizer.vocabulary_size
        self.limits = limits or GrammarLimits()
        self._tokenizer = tokenizer
        self._cache: OrderedDict[GrammarSpec, Grammar | GrammarError] = OrderedDict()
        self._lock = threading.Lock()  # for _cache
        self._compiling = threading.Lock()  # one at a time: each may take its share of time and memory
        self._opened: tuple[LLTokenizer, CheckingProcess] | None = None
        self._words: Words | None = None

    def compile(self, spec: GrammarSpec) -> Grammar:
        """Returns the grammar, perhaps one that was compiled before. Raises GrammarError."""
        source = llguidance_grammar(spec, self.limits)
        found = self._found(spec)
        if found is None:
            with self._compiling:
                found = self._found(spec) or self._made(spec, source)
            self._keep(spec, found)
        if isinstance(found, GrammarError):
            raise GrammarError(str(found))
        return found

    def _found(self, spec: GrammarSpec) -> Grammar | GrammarError | None:
        with self._lock:
            found = self._cache.get(spec)
            if found is None or (isinstance(found, Grammar) and found.num_texts >= MAX_SHARED_TEXTS):
                return None
            self._cache.move_to_end(spec)
            return found

    def _keep(self, spec: GrammarSpec, made: Grammar | GrammarError) -> None:
        with self._lock:
            self._cache[spec] = made
            self._cache.move_to_end(spec)
            of_its_kind = [one for one, other in self._cache.items() if type(other) is type(made)]
            for one in of_its_kind[:-MAX_CACHED]:
                del self._cache[one]

    def _made(self, spec: GrammarSpec, source: str) -> Grammar | GrammarError:
        tokenizer, process = self._open()
        try:
            process.check(spec.name, source)
            return self._compile(spec, source, tokenizer)
        except GrammarError as error:
            return error

    @property
    def words(self) -> Words:
        """The vocabulary as llguidance reads it."""
        with self._compiling:
            self._open()
        assert self._words is not None, "it is opened"
        return self._words

    def prepare(self) -> None:
        """Does beforehand what the first grammar would wait for: most of a second for a large vocabulary.

        Other Python threads wait for part of it, too; a server calls this before it takes requests.
        """
        self.compile(choice(["prepared"]))

    def close(self) -> None:
        """Ends the second process; the next grammar would start another."""
        with self._compiling:
            if self._opened is not None:
                self._opened[1].close()

    def _open(self) -> tuple[LLTokenizer, CheckingProcess]:
        from llguidance import LLTokenizer

        if self._opened is None:
            words = Words(self._tokenizer, self.vocabulary_size)
            process = CheckingProcess(self.vocabulary_size, words.special, self.limits)
            self._words = words
            self._opened = LLTokenizer(words), process  # type: ignore[arg-type] # it asks for no more
        return self._opened

    def _compile(self, spec: GrammarSpec, source: str, tokenizer: LLTokenizer) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**PARSER_LIMITS)

        def make() -> LLMatcher:
            return LLMatcher(tokenizer, source, log_level=0, limits=limits)

        begin = time.perf_counter()
        matcher = make()
        if matcher.is_error():
            raise GrammarError(f"the {spec.name} can't be enforced: {sentence(matcher.get_error())}")
        seconds = time.perf_counter() - begin
        return Grammar(spec, self.vocabulary_size, matcher, make, seconds, self.limits)
