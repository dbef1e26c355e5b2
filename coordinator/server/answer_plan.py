"""Plans one answer: the reader of its text, and the constraint on its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tplaunch.coordinator.server.answer import PlainReader, Reader
from tplaunch.coordinator.server.wanted import ChatRequest, GrammarWish
from tplaunch.coordinator.serving.grammar import spec
from tplaunch.coordinator.serving.grammar.reasoning import AfterReasoning, AllOf, Markers, ReasoningBudget
from tplaunch.coordinator.serving.grammar.spec import GrammarError, GrammarSpec
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, AnswerFormatError
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, CallEnd, Piece


@dataclass(frozen=True)
class AnswerPlan:
    """How one answer is computed and read."""

    params: SamplingParams
    constraint: Constraint | None = None
    make_reader: Callable[[], Reader] = PlainReader


def plan_text(opened: Opened, params: SamplingParams, wish: GrammarWish | None) -> AnswerPlan:
    """The plan of a text that goes on from a prompt. Raises RequestError or TokenizerError."""
    if wish is None:
        return AnswerPlan(params, opened.constraint(params))
    return AnswerPlan(params, _compiled(opened, _spec(wish)))


def plan_chat(
    opened: Opened,
    request: ChatRequest,
    answers: AnswerFormat,
    prompt: str,
    tools: Sequence[Mapping[str, Any]],
) -> AnswerPlan:
    """The plan of an answer to a conversation. It may take seconds, where a grammar is compiled.

    prompt: the conversation as the model reads it. tools: those that may be called. Raises RequestError for
    what can't be enforced, or TokenizerError.
    """
    markers = answers.reasoning
    constraints: list[Constraint] = []
    wanted = _wanted(request, answers, tools)
    if wanted is not None:
        constraints.append(_compiled(opened, wanted))
    if markers is not None:
        tokenizer = opened.needed_tokenizer()
        places = Markers(markers.begin, markers.end, markers.is_open(prompt))
        constraints = [AfterReasoning(one, places, tokenizer) for one in constraints]
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
    """The grammar of an answer, behind its reasoning. Raises RequestError."""
    choice = request.tool_choice
    form = None if request.grammar is None else _spec(request.grammar)
    if choice.mode != "required":
        if form is not None and tools and answers.writes_calls:
            return _form_or_calls(form, _calls(answers, tools, None, choice.parallel))
        return form
    if form is not None:
        raise RequestError("an answer that must call a tool can't have the form of response_format as well")
    names = None if choice.name is None else (choice.name,)
    return spec.lark(_calls(answers, tools, names, choice.parallel))


def _calls(
    answers: AnswerFormat, tools: Sequence[Mapping[str, Any]], names: Sequence[str] | None, parallel: bool
) -> str:
    if not answers.writes_calls:
        raise RequestError("the model's chat template has no tools, so that no call can be enforced")
    try:
        grammar = answers.call_grammar(tools, names=names, parallel=parallel)
    except AnswerFormatError as error:
        raise RequestError(str(error)) from error
    if grammar is None:
        what = "any tool" if names is None else f"the tool {names[0]!r:.80}"
        raise RequestError(f"{what} must be called, and is not among the tools of the request")
    return grammar


def _form_or_calls(form: GrammarSpec, calls: str) -> GrammarSpec:
    """A grammar of either an answer of a form, or calls of tools. Raises RequestError."""
    if form.kind not in ("json_schema", "json_object"):
        raise RequestError(
            f"a {form.name} can't be enforced beside tools; give no tools, tool_choice none, or a JSON schema"
        )
    head, begin, rules = calls.partition("start:")
    assert begin, "a grammar of calls begins with its start"
    return spec.lark(f"{head}start: made_calls | %json {form.source}\nmade_calls:{rules}")


def _spec(wish: GrammarWish) -> GrammarSpec:
    try:
        return spec.of_kind(wish.kind, wish.value)
    except GrammarError as error:
        raise RequestError(str(error)) from error


def _compiled(opened: Opened, wanted: GrammarSpec) -> Constraint:
    try:
        return opened.grammars.compile(wanted)
    except GrammarError as error:
        raise RequestError(str(error)) from error
