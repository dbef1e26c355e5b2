"""Plans one answer: the reader of its text, and the constraint on its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tplaunch.coordinator.server.answer import PlainReader, Reader
from tplaunch.coordinator.server.wanted import ChatRequest, GrammarWish
from tplaunch.coordinator.serving.grammar import spec
from tplaunch.coordinator.serving.grammar.once_begun import Marker, OnceBegun
from tplaunch.coordinator.serving.grammar.reasoning import AfterReasoning, AllOf, Markers, ReasoningBudget
from tplaunch.coordinator.serving.grammar.spec import GrammarSpec
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, CallEnd, Piece


@dataclass(frozen=True)
class AnswerPlan:
    """How one answer is computed and read."""

    params: SamplingParams
    constraint: Constraint | None = None
    make_reader: Callable[[], Reader] = PlainReader


def plan_text(opened: Opened, params: SamplingParams, wish: GrammarWish | None) -> AnswerPlan:
    """The plan of a text that goes on from a prompt. Raises RequestError, GrammarError or TokenizerError."""
    if wish is None:
        return AnswerPlan(params, opened.constraint(params))
    return AnswerPlan(params, opened.grammars.compile(spec.of_kind(wish.kind, wish.value)))


def compiles_grammar(request: ChatRequest) -> bool:
    """Tells whether the plan of an answer needs a grammar, which may take seconds."""
    is_called = request.tool_choice.mode == "required"
    return request.grammar is not None or is_called or any(map(is_strict, request.tools))


def plan_chat(
    opened: Opened,
    request: ChatRequest,
    answers: AnswerFormat,
    prompt: str,
    tools: Sequence[Mapping[str, Any]],
) -> AnswerPlan:
    """The plan of an answer to a conversation. It may take seconds, where a grammar is compiled.

    prompt: the conversation as the model reads it. tools: those that may be called. Raises RequestError,
    GrammarError or AnswerFormatError for what can't be enforced, or TokenizerError.
    """
    markers = answers.reasoning
    constraints: list[Constraint] = []
    wanted = _wanted(request, answers, tools)
    if wanted is not None:
        constraints.append(opened.grammars.compile(wanted))
    elif tools and any(map(is_strict, request.tools)):
        constraints += _once_begun(opened, answers, tools, parallel=request.tool_choice.parallel)
    if markers is not None:
        tokenizer = opened.needed_tokenizer()
        places = Markers(markers.begin, markers.end, markers.is_open(prompt))
        forbidden = answers.forbidden_in_reasoning
        constraints = [AfterReasoning(one, places, tokenizer, forbidden) for one in constraints]
        if request.reasoning_budget is not None:
            constraints.append(ReasoningBudget(request.reasoning_budget, places, tokenizer))
    constraint = AllOf(constraints) if len(constraints) > 1 else next(iter(constraints), None)
    if markers is None and not tools:
        return AnswerPlan(request.params, constraint)
    params = replace(request.params, skip_special_tokens=False)  # the markers may be control tokens

    def make_reader() -> Reader:
        return CallsReader(answers.reader(prompt, tools), answers, parallel=request.tool_choice.parallel)

    return AnswerPlan(params, constraint, make_reader)


class CallsReader:
    """A reader that gives calls ids where the model writes none. Without parallel it takes the first call."""

    def __init__(self, reader: Reader, answers: AnswerFormat, *, parallel: bool) -> None:
        self._reader, self._answers, self._parallel = reader, answers, parallel

    @property
    def num_calls(self) -> int:
        """See Reader."""
        return self._reader.num_calls

    @property
    def is_reasoning(self) -> bool:
        """See Reader."""
        return self._reader.is_reasoning

    def push(self, text: str) -> Sequence[Piece]:
        """See Reader."""
        return self._changed(self._reader.push(text))

    def finish(self) -> Sequence[Piece]:
        """See Reader."""
        return self._changed(self._reader.finish())

    def _changed(self, pieces: Sequence[Piece]) -> list[Piece]:
        kept: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, CallBegin | CallArguments | CallEnd) and piece.index and not self._parallel:
                continue
            if isinstance(piece, CallBegin) and piece.id is None:
                kept.append(replace(piece, id=self._answers.make_id(piece.name, piece.index)))
            else:
                kept.append(piece)
        return kept


def _wanted(
    request: ChatRequest, answers: AnswerFormat, tools: Sequence[Mapping[str, Any]]
) -> GrammarSpec | None:
    """The grammar of an answer, behind its reasoning."""
    choice, wish = request.tool_choice, request.grammar
    if tools:
        answers.check_strict(tool for tool in request.tools if is_strict(tool))
    form = None if wish is None else spec.of_kind(wish.kind, wish.value)
    if choice.mode != "required":
        if form is None:
            return None
        has_calls = bool(tools) and answers.writes_calls
        grammar = answers.form_grammar(_calls(answers, tools, None, choice.parallel) if has_calls else None)
        return form if grammar is None else spec.around(grammar, form)
    if form is not None:
        raise RequestError("an answer that must call a tool can't have the form of response_format as well")
    names = None if choice.name is None else (choice.name,)
    return spec.lark(_calls(answers, tools, names, choice.parallel))


def is_strict(tool: Mapping[str, Any]) -> bool:
    """Tells whether a tool's arguments must be of its schema, also where the model calls it by itself."""
    function = tool.get("function", tool)
    return isinstance(function, Mapping) and function.get("strict") is True


def _once_begun(
    opened: Opened, answers: AnswerFormat, tools: Sequence[Mapping[str, Any]], *, parallel: bool
) -> list[Constraint]:
    """The constraint on calls that the model begins by itself."""
    calls = answers.begun_calls(tools, parallel=parallel)
    if calls is None:
        return []
    markers = [Marker(text, len(own.encode())) for text, own in calls.markers]
    grammar = opened.grammars.compile(spec.lark(calls.grammar))
    return [OnceBegun(grammar, opened.grammars.words, markers, calls.bare, calls.before)]


def _calls(
    answers: AnswerFormat, tools: Sequence[Mapping[str, Any]], names: Sequence[str] | None, parallel: bool
) -> str:
    if not answers.writes_calls:
        raise RequestError("the model's chat template has no tools, so that no call can be enforced")
    grammar = answers.call_grammar(tools, names=names, parallel=parallel)
    if grammar is None:
        what = "any tool" if names is None else f"the tool {names[0]!r:.80}"
        raise RequestError(f"{what} must be called, and is not among the tools of the request")
    return grammar
