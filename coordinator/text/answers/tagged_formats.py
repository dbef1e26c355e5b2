"""The formats whose calls have a tag for each parameter. \\0 stands for a line end that may be there."""

from __future__ import annotations

from dataclasses import replace

from tplaunch.coordinator.text.answers.tagged_calls import TaggedCalls

QWEN3_CODER = TaggedCalls(
    begin="<function=",
    end="</function>",
    section="<tool_call>",
    section_end="</tool_call>",
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    has_lines=True,
    written_begin="<tool_call>\n<function={name}>\n",
    written_key="<parameter={key}>\n",
    written_value_end="\n</parameter>\n",
    written_end="</function>\n</tool_call>",
    between="\0",
)
SEED = replace(
    QWEN3_CODER,
    section="<seed:tool_call>",
    section_end="</seed:tool_call>",
    written_begin="<seed:tool_call>\n<function={name}>\n",
    written_end="</function>\n</seed:tool_call>",
)
GLM = TaggedCalls(
    begin="<tool_call>",
    end="</tool_call>",
    name_ends=("\n",),
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    written_begin="<tool_call>{name}\0",
    written_key="<arg_key>{key}</arg_key>\0<arg_value>",
    written_value_end="</arg_value>\0",
    written_end="\0</tool_call>",
    between="\0",
)
HY3 = TaggedCalls(
    begin="<tool_call:opensource>",
    end="</tool_call:opensource>",
    section="<tool_calls:opensource>",
    section_end="</tool_calls:opensource>",
    name_ends=("<tool_sep:opensource>",),
    key="<arg_key:opensource>",
    key_end="</arg_key:opensource>",
    value="<arg_value:opensource>",
    value_end="</arg_value:opensource>",
    written_begin="<tool_call:opensource>{name}<tool_sep:opensource>\0",
    written_key="<arg_key:opensource>{key}</arg_key:opensource>\0<arg_value:opensource>",
    written_value_end="</arg_value:opensource>\0",
    written_end="\0</tool_call:opensource>\0",
    written_section="<tool_calls:opensource>\0",
    written_section_end="</tool_calls:opensource>",
)
MINICPM = TaggedCalls(
    begin='<function name="',
    end="</function>",
    name_ends=('">',),
    key='<param name="',
    key_end='">',
    value_end="</param>",
    has_cdata=True,
    has_python_values=True,
    written_begin='<function name="{name}">',
    written_key='<param name="{key}">',
    written_value_end="</param>",
    written_end="</function>",
    between="\0",
)
KIMI_K3 = TaggedCalls(
    begin='<|open|>call tool="',
    end="<|close|>call<|sep|>",
    section="<|open|>tools<|sep|>",
    section_end="<|close|>tools<|sep|>",
    name_ends=('"',),
    header_end="<|sep|>",
    key='<|open|>argument key="',
    types=tuple(
        (f'" type="{kind}"<|sep|>', kind)
        for kind in ("string", "number", "boolean", "array", "null", "object")
    ),
    value_end="<|close|>argument<|sep|>",
    written_begin='<|open|>call tool="{name}" index="{index}"<|sep|>',
    written_key='<|open|>argument key="{key}{type}',
    written_value_end="<|close|>argument<|sep|>",
    written_end="<|close|>call<|sep|>",
    written_section="<|open|>tools<|sep|>",
    written_section_end="<|close|>tools<|sep|>",
)


def _invoked(prefix: str, section: str, types: tuple[tuple[str, str], ...] = ()) -> TaggedCalls:
    """Calls as <invoke name="..."> with <parameter name="...">, each name behind a prefix."""
    return TaggedCalls(
        begin=f'<{prefix}invoke name="',
        end=f"</{prefix}invoke>",
        section=f"<{section}>",
        section_end=f"</{section}>",
        name_ends=('">',),
        key=f'<{prefix}parameter name="',
        key_end="" if types else '">',
        types=types,
        value_end=f"</{prefix}parameter>",
        written_begin=f'<{prefix}invoke name="{{name}}">\n',
        written_key=f'<{prefix}parameter name="{{key}}' + ("{type}" if types else '">'),
        written_value_end=f"</{prefix}parameter>\n",
        written_end=f"\0</{prefix}invoke>\n",
        written_section=f"<{section}>\n",
        written_section_end=f"</{section}>",
    )


MINIMAX_M2 = _invoked("", "minimax:tool_call")
MUSE_CALLS = _invoked("atem:", "atem:function_calls")
DEEPSEEK_V4 = _invoked(
    "｜DSML｜", "｜DSML｜tool_calls", (('" string="true">', "string"), ('" string="false">', "any"))
)
