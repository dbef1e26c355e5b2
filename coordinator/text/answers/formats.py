"""The formats of tool calls that are known, by name, and what in a template's source tells each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tplaunch.coordinator.text.answers import tagged_formats as tagged
from tplaunch.coordinator.text.answers import untagged_formats as untagged
from tplaunch.coordinator.text.answers.frames import (
    HARMONY,
    HARMONY_REASONING,
    MESSAGE,
    MUSE,
    MUSE_REASONING,
    Frames,
    HarmonyCalls,
)
from tplaunch.coordinator.text.answers.json_calls import JsonCalls
from tplaunch.coordinator.text.answers.nested_calls import NestedCalls
from tplaunch.coordinator.text.answers.python_calls import PythonCalls
from tplaunch.coordinator.text.answers.reasoning import ReasoningMarkers
from tplaunch.coordinator.text.answers.syntax import CallSyntax


@dataclass(frozen=True)
class Around:
    """The markers around an answer's content: some may be there, and others must."""

    may_begin: str = ""
    begin: str = ""
    end: str = ""
    may_end: str = ""


NOTHING_AROUND = Around()


@dataclass(frozen=True)
class KnownFormat:
    """One way of writing calls. evidence: texts that all stand in a template whose model writes so."""

    name: str
    calls: CallSyntax | None
    evidence: tuple[str, ...]
    frames: Frames | None = None
    reasoning: ReasoningMarkers | None = None  # where this format has markers of its own for it
    silent: tuple[str, ...] = ()  # markers about content that are no part of it
    lead: str = ""  # what may stand between reasoning and a call
    tail: str = ""  # what may stand behind the last call
    content: Around = NOTHING_AROUND
    id_style: str = "call"  # "mistral": nine letters and digits; "kimi": functions.NAME:INDEX


# The order matters: a format stands before those whose evidence its templates hold, too.
_BY_MARKERS = (
    KnownFormat(
        "harmony",
        HarmonyCalls(),
        ("<|channel|>", "<|message|>"),
        HARMONY,
        HARMONY_REASONING,
        content=Around(HARMONY.prompt_end, f"<|channel|>final{MESSAGE}"),
    ),
    KnownFormat(
        "muse",
        tagged.MUSE_CALLS,
        ("<atem:function_calls>",),
        MUSE,
        MUSE_REASONING,
        content=Around(MUSE.prompt_end, f" to=user{MESSAGE}"),
    ),
    KnownFormat(
        "kimi-k3",
        tagged.KIMI_K3,
        ("<|open|>", "<|close|>", "<|sep|>"),
        reasoning=ReasoningMarkers("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        silent=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
        lead="<|open|>response<|sep|><|close|>response<|sep|>",
        tail="<|close|>message<|sep|>",
        content=Around("", "<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ),
    KnownFormat("kimi-k2", untagged.KIMI_K2, ("<|tool_call_argument_begin|>",), id_style="kimi"),
    KnownFormat(
        "gemma",
        untagged.GEMMA,
        ("<|tool_call>", "<tool_call|>"),
        reasoning=ReasoningMarkers("<|channel>thought\n", "<channel|>"),
    ),
    KnownFormat("deepseek-v4", tagged.DEEPSEEK_V4, ("｜DSML｜",)),
    KnownFormat("deepseek-v3", untagged.DEEPSEEK_V3, ("<｜tool▁sep｜>", "```json")),
    KnownFormat("deepseek-v3.1", untagged.DEEPSEEK_V31, ("<｜tool▁sep｜>",)),
    KnownFormat(
        "minimax-m3",
        NestedCalls(),
        ("]<]minimax[>[",),
        reasoning=ReasoningMarkers("<mm:think>", "</mm:think>"),
    ),
    KnownFormat("minimax-m2", tagged.MINIMAX_M2, ("<minimax:tool_call>",)),
    KnownFormat("minicpm", tagged.MINICPM, ("<function name=", "<param name=")),
    KnownFormat(
        "hy3",
        tagged.HY3,
        (":opensource", "<arg_key"),
        reasoning=ReasoningMarkers("<think:opensource>", "</think:opensource>"),
    ),
    KnownFormat("glm", tagged.GLM, ("<arg_key>",)),
    KnownFormat("seed", tagged.SEED, ("<seed:tool_call>",)),
    KnownFormat("qwen3-coder", tagged.QWEN3_CODER, ("<function=", "<parameter=")),
    KnownFormat("functionary", untagged.FUNCTIONARY, ("<function=", "</function>")),
    KnownFormat("mistral-args", untagged.MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]"), id_style="mistral"),
    KnownFormat("mistral", untagged.MISTRAL, ("[TOOL_CALLS]",), id_style="mistral"),
    KnownFormat("cohere", untagged.COHERE, ("<|START_ACTION|>",)),
    KnownFormat("command-r", untagged.COMMAND_R, ("Action:", "```json", "tool_name")),
    KnownFormat(
        "solar",
        untagged.SOLAR,
        ("<|tool_call:begin|>",),
        reasoning=ReasoningMarkers("<|think|>", "<|end|>"),
        silent=("<|begin|>assistant", "<|content|>"),
        lead="<|begin|>assistant",
        content=Around("<|begin|>assistant", "<|content|>"),
    ),
    KnownFormat("lfm2", untagged.LFM2, ("<|tool_call_start|>",)),
    KnownFormat("apertus", untagged.APERTUS, ("<|tools_prefix|>",)),
    KnownFormat("nemotron", untagged.NEMOTRON, ("<TOOLCALL>",)),
    KnownFormat("gigachat-3.1", untagged.GIGACHAT_31, ("<|function_call|>",)),
    KnownFormat(
        "gigachat",
        untagged.GIGACHAT,
        ("function call", "<|role_sep|>"),
        silent=("<|message_sep|>",),
        lead="<|message_sep|>\n\n",
    ),
    KnownFormat("phi", untagged.PHI, ("<|/tool_call|>",)),
    KnownFormat("granite", untagged.GRANITE, ("<|tool_call|>",)),
    KnownFormat("firefunction", untagged.FIREFUNCTION, ("functools[",)),
    KnownFormat("internlm", untagged.INTERNLM, ("<|action_start|>", "<|plugin|>")),
    KnownFormat("olmo", untagged.OLMO, ("<function_calls>",)),
    KnownFormat("hermes", untagged.HERMES, ("<tool_call>",)),
    KnownFormat("jamba", untagged.JAMBA, ("<tool_calls>",)),
)
_WITHOUT_MARKERS = (
    KnownFormat("llama3", untagged.LLAMA3, ("<|python_tag|>",)),
    KnownFormat("llama3", untagged.LLAMA3, ('"parameters": ', '{"name": ')),
    KnownFormat("pythonic", PythonCalls(), ("[func_name1(",)),
)
KNOWN_FORMATS = {known.name: known for known in (*_BY_MARKERS, *_WITHOUT_MARKERS)}
# An opening tag and then, perhaps behind a line end, an object with a name: unknown models may write so.
_TAGGED_JSON = re.compile(
    r"""(<[A-Za-z_|][^<>\s{}'"]{1,40}>|\[[A-Z_]{3,40}\])\n?(\[?)\s*\{{1,2}\s*\\?"name\\?"\s*:""", re.ASCII
)


def known_format(source: str) -> KnownFormat | None:
    """The format that a template's source, or a text with control tokens, tells of."""
    return _first(_BY_MARKERS, source) or _guessed(source) or _first(_WITHOUT_MARKERS, source)


def _first(formats: tuple[KnownFormat, ...], source: str) -> KnownFormat | None:
    return next((each for each in formats if all(text in source for text in each.evidence)), None)


def _guessed(source: str) -> KnownFormat | None:
    """A format of JSON between tags that a template shows, though nobody has named it."""
    found = _TAGGED_JSON.search(source)
    if found is None:
        return None
    begin = found.group(1)
    end = begin.replace("<", "</", 1)
    end = end if begin.startswith("<") and end in source else ""
    calls = untagged.json_list(begin, end) if found.group(2) else JsonCalls(begin, end)
    return KnownFormat("json", calls, (begin,))
