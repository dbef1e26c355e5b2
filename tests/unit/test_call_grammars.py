"""Whatever a grammar of calls lets a model write, the reader reads as whole calls of the tools."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from tests.answers import TOOLS, control_tokens, read
from tests.grammars import small_tokenizer
from tests.masks import ByteTokens, accepts
from tests.vocabularies import CONTROL
from tplaunch.coordinator.serving.grammar import spec as specs
from tplaunch.coordinator.serving.grammar.compiler import GrammarCompiler
from tplaunch.coordinator.text.answers.answer_format import AnswerFormat, AnswerFormatError, find_format
from tplaunch.coordinator.text.answers.control_tokens import control_tokens as ids_of_control_tokens
from tplaunch.coordinator.text.answers.formats import KNOWN_FORMATS

NODE = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["label", "next"],
}
MANY = {
    "type": "function",
    "function": {
        "name": "many-things",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "choice": {"enum": ["one", "two words", '"three"']},
                "count": {"type": "integer"},
                "rate": {"type": "number"},
                "flag": {"type": "boolean"},
                "names": {"type": "array", "items": {"type": "string"}},
                "nested": {
                    "type": "object",
                    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
                },
                "maybe": {"type": ["string", "null"]},
                "node": {"$ref": "#/$defs/node"},
            },
            "required": ["choice", "count", "flag", "names"],
            "$defs": {"node": NODE},
        },
    },
}
KINDS: dict[str, Any] = {
    "count": int,
    "rate": (int, float),
    "flag": bool,
    "names": list,
    "text": str,
    "nested": dict,
    "node": dict,
}
ALL = [*TOOLS, MANY]
MAX_STEPS = 6000


class ClosingTokens(ByteTokens):
    """A vocabulary that has, besides bytes, whole texts by which strings and values end."""

    def __init__(self, tokens: dict[str, int], closings: Sequence[str]) -> None:
        super().__init__(tokens)
        self.tokens += [text.encode() for text in closings]


def closings(answers: AnswerFormat, tokens: dict[str, int]) -> list[str]:
    calls = answers.layout.calls
    ends = [
        getattr(calls, "written_value_end", ""),
        getattr(calls, "end", ""),
        '<|"|>',
        '"',
        "'",
        "}",
        "]",
        ")",
    ]
    ends += ['"}', "city", "</item>", "</text>", "</city>"]
    return [end.replace("\0", "") for end in ends if end and not any(token in end for token in tokens)]


def walk(grammar: str, answers: AnswerFormat, tokens: dict[str, int], seed: int) -> str | None:
    """Returns a text that the grammar accepts, written at random; None where it gets too long."""
    vocabulary = ClosingTokens(tokens, closings(answers, tokens))
    tokenizer = LLTokenizer(TokenizerWrapper(vocabulary))
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    dice, mask = random.Random(seed), allocate_token_bitmask(1, len(vocabulary.tokens))
    written = b""
    for _ in range(MAX_STEPS):
        if matcher.is_accepting() and (matcher.is_stopped() or dice.random() < 0.5):
            return written.decode()
        fill_next_token_bitmask(matcher, mask)
        bits = np.unpackbits(mask[0].view(np.uint8), bitorder="little")[: len(vocabulary.tokens)]
        allowed = [token for token in np.flatnonzero(bits).tolist() if token != vocabulary.eos_token_id]
        plain = [token for token in allowed if token == 10 or token in range(32, 127)]
        closing = [token for token in allowed if token >= 256]
        token = dice.choice(closing if closing and dice.random() < 0.6 else plain or allowed)
        assert matcher.consume_token(token), matcher.get_error()
        written += vocabulary.tokens[token]
    return None


@pytest.mark.parametrize("has_tokens", [False, True])
@pytest.mark.parametrize("name", sorted(KNOWN_FORMATS))
def test_what_a_grammar_allows_is_read_as_calls(name: str, has_tokens: bool) -> None:
    known = KNOWN_FORMATS[name]
    if name == "minimax-m3" and not has_tokens:
        return  # its tags stand behind a control token, without which JSON may spell them
    tokens = control_tokens(repr(known).replace("\\n", "\n")) if has_tokens else {}
    answers = find_format("", tokens, override=name)
    grammar = answers.call_grammar(ALL)
    assert grammar is not None
    prompt_end = known.frames.prompt_end if known.frames else ""
    num_read = 0
    for seed in range(6):
        text = walk(grammar, answers, tokens, seed)
        if text is None:
            continue
        answer = read(answers, text, prompt_end=prompt_end, tools=ALL)
        num_read += 1
        assert answer.calls and answer.content == "" and answer.reasoning == "", (text, answer)
        assert all(call.is_complete for call in answer.calls), text
        for called, arguments in answer.named_calls:
            check(called, arguments)
    assert num_read >= 3


def check(called: str, arguments: dict[str, Any]) -> None:
    function = next(tool["function"] for tool in ALL if tool["function"]["name"] == called)
    assert set(function["parameters"]["required"]) <= set(arguments)
    if called == "many-things":
        assert arguments["choice"] in ("one", "two words", '"three"'), arguments
        for key, kind in KINDS.items():
            assert key not in arguments or isinstance(arguments[key], kind), (key, arguments)


def test_the_servers_compiler_takes_every_formats_grammar() -> None:
    shown = " ".join(map(repr, KNOWN_FORMATS.values())).replace("\\n", "\n")
    names = [("<eos>", CONTROL), *((name, CONTROL) for name in control_tokens(shown))]
    tokenizer = small_tokenizer(names)
    tokens = ids_of_control_tokens(tokenizer)
    assert "<|tool_call_begin|>" in tokens and "[TOOL_CALLS]" in tokens  # some others are plain text to it
    assert all(tokenizer.token_text(tokens[name]) == name for name in tokens)
    compiler = GrammarCompiler(tokenizer, tokenizer.vocabulary_size)
    try:
        for name in KNOWN_FORMATS:
            grammar = find_format("", tokens, override=name).call_grammar(ALL)
            assert grammar is not None
            compiler.compile(specs.lark(grammar))
    finally:
        compiler.close()


def test_no_grammar_asks_for_a_token_that_ends_the_answer() -> None:
    """Such tokens may come only where a grammar may end: it must be at its end before them."""
    text = "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>now<|tool_call:args|>{}<|tool_call:end|>"
    tokens = control_tokens(text + "<|calls|>")
    grammar = find_format("", tokens, override="solar").call_grammar(TOOLS)
    assert grammar is not None
    assert accepts(grammar, text, tokens) == text


def test_one_call_or_several() -> None:
    answers = find_format("", {}, override="hermes")
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    several, one = (answers.call_grammar(TOOLS, parallel=parallel) for parallel in (True, False))
    assert several is not None and one is not None
    assert accepts(several, f"{call}\n{call}", {}) == f"{call}\n{call}"
    assert accepts(one, call, {}) == call and accepts(one, f"{call}\n{call}", {}) != f"{call}\n{call}"
    assert accepts(several, "", {}) == "…"


def test_parameters_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    tools = [{"type": "function", "function": {"name": "deep", "parameters": schema}}]
    with pytest.raises(AnswerFormatError, match="'deep' have lists and objects within each other 5000 deep"):
        find_format("", {}, override="hermes").call_grammar(tools)


@pytest.mark.parametrize("name", ["gemma", "lfm2", "minimax-m3", "glm", "minicpm"])
@pytest.mark.parametrize(
    "schema",
    [
        {
            "properties": {"a": {"$ref": "#/$defs/0"}},
            "$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(5000)},
        },
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"$ref": "#/a"}}, "a": {"anyOf": [{"$ref": "#/a"}] * 50}},
        {"properties": {"a": {"$ref": "#/0"}}}
        | {str(n): {"anyOf": [{"$ref": f"#/{n + 1}"}] * 50} for n in range(50)},
        {"properties": [1], "required": 7},
        {
            "properties": {
                "a": True,
                "b": {"type": 7},
                "c": {"enum": 3},
                "d": {"anyOf": []},
                "e": {"items": True},
            }
        },
        {"properties": {'a\n">{name}': {"type": "array"}}},
    ],
)
def test_odd_schemas_raise_nothing(name: str, schema: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "odd", "parameters": schema}}]
    answers = find_format("", {}, override=name)
    assert answers.call_grammar(tools) is not None
    assert read(answers, "Hello", tools=tools).content == "Hello"
