"""Measures what a server costs: clients that stream against LLM.generate, and a step against the ranks' own.

python examples/measure_server.py --shape llama-160m --devices 0,0
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tplaunch import LLM, SamplingParams
from tplaunch.coordinator.server.app import make_app
from tplaunch.coordinator.server.listening import HttpServer, listen, url_of
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.launcher.commands.serve import SWITCH_SECONDS
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.serving_model import open_for_many
from tplaunch.launcher.words import DEMO_MODEL

FEW = 8
PROMPT_LENGTH = 16


@contextmanager
def served(opened: Opened) -> Iterator[str]:
    """Serves a model in a thread, and yields the address."""
    has_started, loop = threading.Event(), asyncio.new_event_loop()
    app = make_app(opened, ["model"])
    server = HttpServer(app, has_started.set)
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=loop.run_until_complete, args=(server.serve_on(bound),))
        thread.start()
        try:
            has_started.wait()
            yield url_of(bound)
        finally:
            loop.call_soon_threadsafe(app.state.ends.stop)
            thread.join()
            loop.close()


def prompts_of(count: int, seed: int, size: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, size) for _ in range(PROMPT_LENGTH)] for _ in range(count)]


async def stream(host: str, port: int, prompt: list[int], num_tokens: int) -> int:
    """Asks for one text, and returns how many tokens have come. Knows as little of HTTP as will do."""
    reader, writer = await asyncio.open_connection(host, port)
    fields = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    body = json.dumps({**fields, "stream": True, "return_token_ids": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    found = 0
    while not (line := await reader.readline()).startswith(b"data: [DONE]"):
        if line.startswith(b"data: "):
            found += len(json.loads(line[6:])["choices"][0]["token_ids"])
        elif not line:
            raise ConnectionError("the server closed a stream")
    writer.close()
    return found


async def stream_all(address: str, prompts: list[list[int]], num_tokens: int) -> None:
    """Has all texts stream at once; prints the tokens and the seconds."""
    host, _, port = address.removeprefix("http://").partition(":")
    started = time.perf_counter()
    counts = await asyncio.gather(*(stream(host, int(port), prompt, num_tokens) for prompt in prompts))
    print(sum(counts), time.perf_counter() - started)


def clients(url: str, prompts: list[list[int]], num_tokens: int) -> tuple[int, float]:
    """Returns the tokens that clients in another process get, and the seconds."""
    command = [sys.executable, __file__, "--client", url, "--tokens", str(num_tokens)]
    done = subprocess.run(command, input=json.dumps(prompts), capture_output=True, text=True, check=True)
    tokens, seconds = done.stdout.split()
    return int(tokens), float(seconds)


def ranks_seconds(opened: Opened) -> tuple[int, float]:
    """Returns the steps so far, and how long the slower rank has worked in them."""
    stats = opened.driver.stats()
    return stats.num_steps, max(sum(parts.values()) for parts in stats.rank_seconds)


def measure(opened: Opened, url: str, num_clients: int, num_tokens: int, repeat: int) -> None:
    size = opened.driver.session.engine.spec.vocabulary_size
    llm, params = LLM.of(opened), SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    rates: list[tuple[float, float]] = []
    for round_number in range(repeat + 1):  # the first does not count
        started = time.perf_counter()
        outputs = llm.generate(prompts_of(num_clients, 2 * round_number, size), params, use_tqdm=False)
        generated = sum(len(one.outputs[0].token_ids) for one in outputs)
        alone = generated / (time.perf_counter() - started)
        count, seconds = clients(url, prompts_of(num_clients, 2 * round_number + 1, size), num_tokens)
        rates.append((alone, count / seconds))
    alone, through = (max(rate) for rate in zip(*rates[1:], strict=True))
    print(
        f"{num_clients} clients: {through:.1f} tokens/s streaming, {alone:.1f} by LLM.generate, ratio"
        f" {through / alone:.3f}"
    )
    overheads = []
    for round_number in range(repeat):
        before, worked_before = ranks_seconds(opened)
        _, seconds = clients(url, prompts_of(FEW, 1000 + round_number, size), num_tokens)
        after, worked = ranks_seconds(opened)
        step, own = seconds / (after - before), (worked - worked_before) / (after - before)
        overheads.append((step / own - 1, step, own))
    overhead, step, own = min(overheads)
    print(f"batch {FEW}: {step * 1e6:.0f} us a step, {own * 1e6:.0f} the ranks', overhead {overhead:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", help="a shape with made-up weights (default: the demo model)")
    parser.add_argument("--type", default="q8_0")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--devices", default="numpy,numpy")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client is not None:
        asyncio.run(stream_all(options.client, json.load(sys.stdin), options.tokens))
        return
    model = options.model if options.shape is None else RandomModel(options.shape, options.type.upper())
    config = RunConfig(model=model, devices=options.devices, parallel=options.clients, context_length=512)
    sys.setswitchinterval(SWITCH_SECONDS)
    with open_for_many(config, chose_parallel=True) as loaded, served(loaded.opened) as url:
        measure(loaded.opened, url, options.clients, options.tokens, options.repeat)


if __name__ == "__main__":
    main()
