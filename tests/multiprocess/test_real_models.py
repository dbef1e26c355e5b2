"""Real models answer as they did when they agreed with llama.cpp token for token."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_api import python, run_program
from tests.patience import end_of
from tests.real_models import GEMMA_3, SMOLLM2, real_model

__all__ = ["python"]  # a fixture

# ChatML as Hermes' models know it, with tools, which SmolLM2's own template has none of.
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\nYou may call these functions:\n{% for tool in tools %}"
    '{{ tool | tojson }}\n{% endfor %}To call one, write <tool_call>\n{"name": NAME, "arguments": OBJECT}\n'
    "</tool_call><|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "country": {"enum": ["France", "Italy"]},
        "is_capital": {"type": "boolean"},
    },
    "required": ["name", "country", "is_capital"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
TOOLS: Any = [{"type": "function", "function": {"name": "tell", "strict": True, "parameters": CITY}}]

CAPITAL = [504, 3575, 282, 4649, 314, 7042, 30]
CONTINUED = [506, 5279, 529, 506, 2891, 529, 7001, 236761, 1030, 563, 506, 7488]


@pytest.mark.parametrize("devices", ["numpy", "0,0"])
def test_smollm2_answers_and_goes_on(python: CommandLine, devices: str) -> None:
    """Two ranks of lavapipe give the tokens of NumPy; the second turn computes what is new."""
    lines = run_program(python, f"""
        import json
        talk = [{{"role": "user", "content": "What is the capital of France? Answer with one word."}}]
        with LLM({str(real_model(SMOLLM2))!r}, devices={devices!r}, context=256) as llm:
            (first,) = llm.chat(talk, GREEDY, use_tqdm=False)
            answer = first.outputs[0]
            talk += [{{"role": "assistant", "content": answer.text}}]
            talk += [{{"role": "user", "content": "And of Italy?"}}]
            (second,) = llm.chat(talk, GREEDY, use_tqdm=False)
            print(json.dumps([answer.text, list(answer.token_ids), answer.finish_reason]))
            print(json.dumps([second.outputs[0].text, len(first.prompt_token_ids), second.num_cached_tokens]))
    """, timeout=280)  # fmt: skip
    assert json.loads(lines[0]) == ["The capital of France is Paris.", CAPITAL, "stop"]
    text, num_first, num_cached = json.loads(lines[1])
    assert "Rome" in text
    assert num_cached >= num_first // 32 * 32 > 0


@pytest.mark.parametrize("devices", ["numpy", "0"])
def test_gemma_3_continues(python: CommandLine, devices: str) -> None:
    (line,) = run_program(python, f"""
        import json
        with LLM({str(real_model(GEMMA_3))!r}, devices={devices!r}, context=64) as llm:
            (output,) = llm.generate("The capital of France is", GREEDY, use_tqdm=False)
            print(json.dumps(list(output.outputs[0].token_ids)))
    """, timeout=280)  # fmt: skip
    assert json.loads(line) == CONTINUED


def test_gemma_3_finds_a_prompt_longer_than_its_windows(python: CommandLine) -> None:
    """Its windows show 512 positions; blocks before them are given back, and the end is still found."""
    lines = run_program(python, f"""
        import json
        prompt = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 45 + "Then the fox"
        with LLM({str(real_model(GEMMA_3))!r}, devices="numpy", context=1024) as llm:
            for _ in range(2):
                (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
                numbers = [len(output.prompt_token_ids), output.num_cached_tokens]
                print(json.dumps([output.outputs[0].text, *numbers]))
    """, timeout=280)  # fmt: skip
    (first, length, none), (second, _, cached) = map(json.loads, lines)
    assert first == second and length > 700
    assert (none, cached) == (0, (length - 1) // 32 * 32)


def test_smollm2_keeps_a_form_and_calls_a_tool(tplaunch: CommandLine) -> None:
    """Two ranks, asked through OpenAI's client; its template has no tools, and another one has."""
    path = real_model(SMOLLM2)
    options = ("--devices", "0,0", "--context", "512", "--port", "0", "--trust-request-chat-template")
    process = tplaunch.start("serve", path, *options)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    url = next(found[1] for line in lines if (found := re.search(r"listening on (\S+)", line)))
    asked: dict[str, Any] = {
        "model": path.stem,
        "messages": [{"role": "user", "content": "Tell me about the city of Paris in JSON."}],
        "max_tokens": 60,
        "temperature": 0,
    }
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=200) as client:
        made = client.chat.completions.create(**asked, response_format=FORM)
        assert made.choices[0].finish_reason == "stop"
        assert json.loads(made.choices[0].message.content or "")["name"] == "Paris"
        must: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
        with pytest.raises(openai.BadRequestError, match="chat template has no tools"):
            client.chat.completions.create(**asked, **must)
        must["extra_body"] = {"chat_template": WITH_TOOLS}
        made = client.chat.completions.create(**asked, **must)
        calls = made.choices[0].message.tool_calls
        assert calls is not None and len(calls) == 1
        (call,) = calls
        assert call.type == "function" and call.function.name == "tell"
        assert json.loads(call.function.arguments)["country"] in ("France", "Italy")
        assert made.choices[0].finish_reason == "tool_calls"
    process.terminate()
    end_of(process)
    assert process.returncode == 0
