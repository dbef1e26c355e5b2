"""The formats whose calls are JSON objects, or names with JSON or the like behind them.

\\0 stands for a line end that may be there.
"""

from __future__ import annotations

from tplaunch.coordinator.text.answers.json_calls import JsonCalls
from tplaunch.coordinator.text.answers.named_calls import MistralCalls, NamedCalls
from tplaunch.coordinator.text.answers.python_calls import PythonCalls
from tplaunch.coordinator.text.answers.values import GEMMA as GEMMA_VALUES


def json_list(begin: str, end: str = "") -> JsonCalls:
    """A JSON list of calls between two markers."""
    return JsonCalls(begin, end, written_begin="[", written_end="]", is_list=True, between=", ")


KIMI_K2 = NamedCalls(
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    name_end="<|tool_call_argument_begin|>",
    name_is_id=True,
)
GEMMA = NamedCalls("<|tool_call>call:", "<tool_call|>", style=GEMMA_VALUES)
DEEPSEEK_V3 = NamedCalls(
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    "\0```<｜tool▁call▁end｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    name_end="\n```json\n",
    between="\0",
)
DEEPSEEK_V31 = NamedCalls(
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    name_end="<｜tool▁sep｜>",
)
FUNCTIONARY = NamedCalls("<function=", "</function>", name_end=">")
MISTRAL_ARGS = MistralCalls("[TOOL_CALLS]", name_end="[ARGS]")
SOLAR = NamedCalls(
    "<|tool_call:begin|>",
    "<|tool_call:end|>",
    "<|tool_calls|>",
    "<|calls|>",
    id_end="<|tool_call:name|>",
    name_end="<|tool_call:args|>",
    ends_answer=True,
)
MISTRAL = JsonCalls(
    "[TOOL_CALLS]",
    written='{"name": {name}, "arguments": {arguments}, "id": "{id}"}',
    id_pattern="[A-Za-z0-9]{9}",
    written_begin="[",
    written_end="]",
    is_list=True,
    between=", ",
)
COHERE = JsonCalls(
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    written='\n    {"tool_call_id": "{id}", "tool_name": {name}, "parameters": {arguments}}',
    id_pattern="[0-9]{1,3}",
    written_begin="[",
    written_end="\n]",
    is_list=True,
    between=",",
)
COMMAND_R = JsonCalls(
    "Action:",
    "```",
    prelude="```json",
    written='    {\n        "tool_name": {name},\n        "parameters": {arguments}\n    }',
    written_begin="\n```json\n[\n",
    written_end="\n]",
    is_list=True,
    between=",\n",
)
LFM2 = PythonCalls("<|tool_call_start|>", "<|tool_call_end|>")
APERTUS = JsonCalls(
    "<|tools_prefix|>",
    "<|tools_suffix|>",
    written="{{name}: {arguments}}",
    written_begin="[",
    written_end="]",
    is_list=True,
    is_keyed=True,
    between=", ",
)
NEMOTRON = json_list("<TOOLCALL>", "</TOOLCALL>")
GIGACHAT_31 = JsonCalls("<|function_call|>", is_single=True)
GIGACHAT = JsonCalls("function call<|role_sep|>\n", is_single=True)
GRANITE = json_list("<|tool_call|>")
PHI = json_list("<|tool_call|>", "<|/tool_call|>")
JAMBA = json_list("<tool_calls>", "</tool_calls>")
INTERNLM = JsonCalls(
    "<|action_start|><|plugin|>",
    "<|action_end|>",
    written='{"name": {name}, "parameters": {arguments}}',
    written_begin="\0",
    is_single=True,
)
OLMO = PythonCalls("<function_calls>", "</function_calls>", is_list=False)
FIREFUNCTION = json_list("functools")
HERMES = JsonCalls("<tool_call>", "\0</tool_call>", written_begin="\0")
LLAMA3 = JsonCalls(
    "<|python_tag|>", written='{"name": {name}, "parameters": {arguments}}', is_bare=True, is_single=True
)
