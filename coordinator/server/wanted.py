"""Requests as all protocols mean them: a text to continue, and a conversation to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


@dataclass(frozen=True)
class GrammarWish:
    """The form that a text shall have; a grammar is made of it before anything is computed."""

    kind: Literal["json_object", "json_schema", "regex", "lark", "choice"]
    value: Any = None  # a schema as an object, an expression or a grammar as text, or a list of texts


@dataclass(frozen=True)
class TextRequest:
    """One prompt to continue."""

    prompt: str | Sequence[int]  # a text, or its token ids as they are
    params: SamplingParams
    id: str | None = None
    add_special: bool = True  # the tokens that begin and end a text, where the model asks for them
    grammar: GrammarWish | None = None
    beside: int = 0  # characters of other prompts, whose tokens are found together with this one's


@dataclass(frozen=True)
class ToolChoice:
    """Says if tools may or must be called."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None  # with required: the one that must be called
    parallel: bool = True  # several calls in one answer


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to answer.

    messages and tools have OpenAI's form, which is what chat templates are written for: role, content,
    tool_calls, tool_call_id, reasoning_content; {"type": "function", "function": {...}}.
    """

    messages: Sequence[Mapping[str, Any]]
    params: SamplingParams
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: ToolChoice = ToolChoice()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # what else the template may ask for
    chat_template: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    reasoning_budget: int | None = None  # tokens of reasoning, after which it is closed
    may_lower_system: bool = False  # a later system message may become the user's where a template refuses it
    id: str | None = None
    grammar: GrammarWish | None = None  # of the answer behind the reasoning
