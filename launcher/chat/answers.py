"""Makes one answer after the other on a session, and shows each as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tplaunch.coordinator.measuring.ledger import Ledger
from tplaunch.coordinator.serving.request import Request, Times
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.chat.screen import Screen
from tplaunch.launcher.commands.ledger_report import ledger_json, ledger_table
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.lines import say
from tplaunch.launcher.session import Session

MAX_INTERRUPTS = 2  # the next one does not wait for the step: it may hang


class Stop:
    """Ctrl-C as a wish: it is looked at between steps, so that no step is left half answered."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def is_wanted(self) -> bool:
        return self._count > 0

    def reset(self) -> None:
        """An answer begins; what was pressed before it meant something else."""
        self._count = 0

    def take(self) -> bool:
        """Ctrl-C was pressed; False where it is to end the run."""
        self._count += 1
        return self._count <= MAX_INTERRUPTS


class Answers:
    """Text as it comes, or JSON at the end, with what --ledger asks for."""

    def __init__(self, session: Session, generate: GenerateConfig) -> None:
        self._session, self._generate = session, generate
        self.context_length = session.limits.context_length

    def make(
        self, prompt: Sequence[int], params: SamplingParams, stop: Stop | None = None, echo: str = ""
    ) -> Request:
        """The finished request. stop: cancels it between steps; echo: the text that it continues."""
        session, generate = self._session, self._generate
        request = session.requests.add(prompt, params)
        screen = None if generate.json else Screen()
        if screen is not None:
            screen.echo(echo)
        try:
            self._run(request, screen, stop)
        except Exception:
            if screen is not None:
                screen.break_off()
            raise
        if request.error is not None:
            raise request.error
        if screen is not None:
            screen.end()
        self._report(request)
        return request

    def _run(self, request: Request, screen: Screen | None, stop: Stop | None) -> None:
        while not request.is_finished:
            if stop is not None and stop.is_wanted:
                self._cancel(request, screen)
                return
            for event in self._session.requests.step():
                if screen is not None:
                    ids = "" if event.token is None or self._session.has_text else f"{event.token} "
                    screen.show(event.text + ids)

    def _cancel(self, request: Request, screen: Screen | None) -> None:
        num_shown = len(request.outputs[0].text)
        self._session.requests.cancel(request.id)
        if screen is not None:
            screen.show(request.outputs[0].text[num_shown:])
        self._session.requests.land()  # before a person thinks about what to say next

    def _report(self, request: Request) -> None:
        times = request.times
        taken = self._session.engine.take_ledger()
        ledger = None  # where it was stopped before its first step
        if taken.num_steps:
            ledger = taken.ledger(times.prompt_seconds + times.decode_seconds)
        if self._generate.json:
            text = request.outputs[0].text if self._session.has_text else None
            print(json.dumps(_as_json(request, text, ledger)), flush=True)
        elif sys.stderr.isatty():
            remark = why_it_ended(request, self.context_length)
            if remark:
                say(remark)
        if self._generate.ledger and ledger is not None:
            print(f"mean microseconds of a step, of {ledger.num_steps} steps", file=sys.stderr)
            print(ledger_table(ledger), file=sys.stderr)


def why_it_ended(request: Request, context_length: int) -> str:
    """Explains an answer that is empty or cut, in a sentence; "" for others."""
    output, num_tokens = request.outputs[0], len(request.outputs[0].token_ids)
    tokens = f"{num_tokens} token{'' if num_tokens == 1 else 's'}"
    if output.finish_reason == "length":
        return f"cut after {tokens}: -n, or /set max_tokens in a chat, allows no more"
    if output.finish_reason == "context":
        return (
            f"cut after {tokens}: the context of {context_length} is full; give more with --context, or"
            " shorten the text (/clear begins a chat anew)"
        )
    if output.finish_reason == "cancelled":
        return f"stopped after {tokens}"
    if output.text.strip():
        return ""
    if num_tokens:
        return f"the answer has no text: the model wrote {tokens}, none of which shows"
    return "the answer is empty: the model ended it at once"


def speed(times: Times, num_tokens: int) -> str:
    """Says for people how fast prompt and answer were."""
    prompt = _rate(times.computed_tokens, times.prompt_seconds) or 0
    decode = _rate(num_tokens - 1, times.decode_seconds) or 0
    cached = f", {times.cached_tokens} of them cached" if times.cached_tokens else ""
    return (
        f"[prompt {times.prompt_tokens} tokens{cached} at {prompt:.1f}/s,"
        f" {num_tokens} tokens at {decode:.1f}/s]"
    )


def say_speed(request: Request) -> None:
    """Prints the speed, on a terminal only."""
    if sys.stderr.isatty():
        print(speed(request.times, len(request.outputs[0].token_ids)), file=sys.stderr)


def _as_json(request: Request, text: str | None, ledger: Ledger | None) -> dict[str, Any]:
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
        "ledger": None if ledger is None else ledger_json(ledger),
    }


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count > 0 and seconds > 0 else None
