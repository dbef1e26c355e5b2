"""`tplaunch run`: continues prompts, as text that streams or as one JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tplaunch.coordinator.measuring.ledger import Ledger, make_ledger
from tplaunch.coordinator.serving.request import Request, Times
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tplaunch.launcher.commands.ledger_report import ledger_json, ledger_table
from tplaunch.launcher.config import RunConfig, UsageError
from tplaunch.launcher.devices import select_devices
from tplaunch.launcher.fitting.arrange import Arrangement, arrange, say_arrangement
from tplaunch.launcher.lines import say
from tplaunch.launcher.model import Model, check_prompt, open_model
from tplaunch.launcher.prompt import read_line
from tplaunch.launcher.prompt_text import encode_prompt
from tplaunch.launcher.session import Session, start_session
from tplaunch.launcher.streams import read_standard_input
from tplaunch.launcher.trace_file import check_trace_path, write_trace


@dataclass(frozen=True)
class GenerateConfig:
    """What to generate, and how to show it."""

    prompt: str | None
    tokens: list[int] | None  # a prompt as ids
    sampling: SamplingParams
    json: bool
    ledger: bool = False  # say where the time went
    trace: Path | None = None
    from_standard_input: bool = False  # also where that is a terminal
    parse_special: bool = False  # texts of control tokens in a prompt become these

    def __post_init__(self) -> None:
        if self.tokens is not None and (self.prompt is not None or self.from_standard_input):
            raise UsageError("-p and --tokens both give a prompt; use one of them")


def run(config: RunConfig, generate: GenerateConfig) -> int:
    """Checks everything that can be known before a worker starts, then generates."""
    check_trace_path(generate.trace)
    config = replace(
        config,
        timestamps=generate.ledger or generate.trace is not None,
        trace=generate.trace is not None,
    )
    model = open_model(config)
    tokenizer = _tokenizer(model, generate)
    arrangement = arrange(config, model, select_devices(config.devices))
    has_prompt = generate.prompt is not None or generate.tokens is not None
    if not has_prompt and model.is_standard_input:
        raise UsageError("standard input is the model file; give the prompt with -p")
    interactive = not has_prompt and not generate.from_standard_input and sys.stdin.isatty()
    if interactive:
        return _prompt_loop(config, generate, model, tokenizer, arrangement)
    prompt = _prompt_tokens(generate, tokenizer)
    check_prompt(prompt, model, arrangement.limits)
    say_arrangement(config, model, arrangement)
    with start_session(config, model, arrangement, tokenizer) as session:
        if generate.prompt is not None and sys.stdout.isatty() and not generate.json:
            print(generate.prompt, end="")  # a person reads on from there; a script knows it
        _continue(session, prompt, generate)
    _write_trace(session, generate)
    return 0


def _write_trace(session: Session, generate: GenerateConfig) -> None:
    if generate.trace is not None and session.engine.trace is not None:
        write_trace(generate.trace, [("tplaunch run", session.engine.trace)])


def _prompt_loop(
    config: RunConfig,
    generate: GenerateConfig,
    model: Model,
    tokenizer: Tokenizer | None,
    arrangement: Arrangement,
) -> int:
    """Prompts from a terminal until its end; every prompt starts afresh."""
    if tokenizer is None:
        raise UsageError("the model file has no tokenizer; give the prompt as ids with --tokens")
    say_arrangement(config, model, arrangement)
    with start_session(config, model, arrangement, tokenizer) as session:
        print("Type a prompt; Ctrl-D ends.", file=sys.stderr)
        while True:
            try:
                text = read_line(session.watch)
            except EOFError:
                print(file=sys.stderr)
                break
            try:
                prompt = encode_prompt(tokenizer, text, generate.parse_special)
                check_prompt(prompt, model, arrangement.limits)
            except (UsageError, TokenizerError) as error:
                say(str(error))
                continue
            _continue(session, prompt, generate)
    _write_trace(session, generate)
    return 0


def _tokenizer(model: Model, generate: GenerateConfig) -> Tokenizer | None:
    """None only where the prompt is given as ids and the file's tokenizer can't be used."""
    try:
        return load_tokenizer(model.metadata)
    except TokenizerError:
        if generate.tokens is None:
            raise
        return None


def _prompt_tokens(generate: GenerateConfig, tokenizer: Tokenizer | None) -> list[int]:
    if generate.tokens is not None or tokenizer is None:
        return generate.tokens or []
    # `echo` ends its line, as $(...) knows too: that newline is not meant as part of the prompt.
    text = read_standard_input().removesuffix("\n") if generate.prompt is None else generate.prompt
    return encode_prompt(tokenizer, text, generate.parse_special)


def _continue(session: Session, prompt: list[int], generate: GenerateConfig) -> None:
    """Generates from one prompt and shows it: text as it comes, or JSON at the end."""
    request = session.requests.add(prompt, generate.sampling)
    while not request.is_finished:
        for event in session.requests.step():
            if not generate.json:
                ids = "" if event.token is None or session.has_text else f"{event.token} "
                print(event.text + ids, end="", flush=True)
    if request.error is not None:
        raise request.error
    times = request.times
    totals, num_steps, reduce_times = session.engine.take_ledger()
    ledger = make_ledger(totals, num_steps, times.prompt_seconds + times.decode_seconds, reduce_times)
    output = request.outputs[0]
    if generate.json:
        print(json.dumps(_report(request, output.text if session.has_text else None, ledger)))
    else:
        print()
        _say_speed(times, len(output.token_ids))
    if generate.ledger:
        print(f"mean microseconds of a step, of {num_steps} steps", file=sys.stderr)
        print(ledger_table(ledger), file=sys.stderr)


def _report(request: Request, text: str | None, ledger: Ledger) -> dict[str, Any]:
    times, output = request.times, request.outputs[0]
    return {
        "prompt_tokens": list(request.prompt),
        "cached_tokens": times.cached_tokens,
        "tokens": output.token_ids,
        "text": text,
        "finish_reason": output.finish_reason,
        "timings": {
            "prompt_seconds": times.prompt_seconds,
            "prompt_tokens_per_second": _rate(times.computed_tokens, times.prompt_seconds),
            "decode_seconds": times.decode_seconds,
            "decode_tokens_per_second": _rate(len(output.token_ids) - 1, times.decode_seconds),
        },
        "ledger": ledger_json(ledger),
    }


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count > 0 and seconds > 0 else None


def _say_speed(times: Times, num_tokens: int) -> None:
    if not sys.stderr.isatty():
        return
    prompt = _rate(times.computed_tokens, times.prompt_seconds) or 0
    decode = _rate(num_tokens - 1, times.decode_seconds) or 0
    cached = f", {times.cached_tokens} of them cached" if times.cached_tokens else ""
    print(
        f"[prompt {times.prompt_tokens} tokens{cached} at {prompt:.1f}/s,"
        f" {num_tokens} tokens at {decode:.1f}/s]",
        file=sys.stderr,
    )
