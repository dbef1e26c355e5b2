"""Measures prefill and decode on one core, by turns: tplaunch's devices of processors, and llama.cpp's.

python examples/measure_cpu.py smollm2.gguf gemma3.gguf
python examples/measure_cpu.py --llama-server llama.cpp/bin/llama-server smollm2.gguf

Everything runs on one core, one thread of computation each, the coordinator and the other's server among it.
llama-server is one that is built with its CPU backend; it is given float32 for the KV cache where
--kv-type says f32, as tplaunch is. They take turns, so that a busy machine is busy for all:
ratios are firmer than their parts. Medians of all turns are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PEER = "llama.cpp"
START_SECONDS, ANSWER_SECONDS = 300, 600
FIRST_TOKEN, VARIED_TOKENS = 100, 97  # of prompts: ids that any vocabulary has as ordinary text
Speeds = dict[str, float]  # tokens per second by test, as `tplaunch bench` names tests


def tplaunch_speeds(model: Path, device: str, options: argparse.Namespace) -> Speeds:
    """Returns what one run of `tplaunch bench` measures."""
    line = [sys.executable, "-m", "tplaunch", "bench", "--json", "--devices", device, str(model)]
    line += ["--prefill", options.prefill, "--decode", str(options.decode), "--at-context", "0"]
    line += ["--repeat", str(options.repeat), "--kv-type", options.kv_type]
    line += ["--activations", options.activations]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return {one["test"]: one["median_tokens_per_second"] for one in json.loads(done.stdout)["results"]}


def asked(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the JSON that a server answers; raises urllib's errors."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def llama_server(path: Path, model: Path, options: argparse.Namespace) -> Iterator[str]:
    """Has llama.cpp serve a model on its CPU backend with one thread; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = max(parse_counts(options.prefill)) + options.decode + 64
    line = [str(path), "-m", str(model), "--device", "none", "-t", "1", "-tb", "1", "--port", str(port)]
    line += ["-c", str(context), "--parallel", "1", "--no-webui"]
    line += ["-ctk", options.kv_type, "-ctv", options.kv_type]
    libraries = os.pathsep.join(filter(None, (str(path.parent), os.environ.get("LD_LIBRARY_PATH"))))
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
        server = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def wait_for(server: subprocess.Popen[bytes], url: str, log: Any) -> None:
    """Waits until a server is ready. Raises RuntimeError, with what it said, where it ends before."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            asked(url)
            return
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"llama-server did not start:\n{said}") from None
        time.sleep(0.2)


def peer_speeds(url: str, options: argparse.Namespace) -> Speeds:
    """Returns what llama-server measures of the same tests; a first request of each does not count."""

    def speed(prompt: int, tokens: int, kind: str) -> float:
        ids = [FIRST_TOKEN + index * 7 % VARIED_TOKENS for index in range(prompt)]
        body = {"prompt": ids, "n_predict": tokens, "cache_prompt": False, "temperature": 0}
        found = [
            asked(f"{url}/completion", {**body, "ignore_eos": True})["timings"][f"{kind}_per_second"]
            for _ in range(options.repeat + 1)
        ]
        return float(statistics.median(found[1:]))

    speeds = {f"pp{count}": speed(count, 1, "prompt") for count in parse_counts(options.prefill)}
    return {**speeds, f"tg{options.decode}": speed(1, options.decode, "predicted")}


def parse_counts(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def measured(model: Path, options: argparse.Namespace) -> dict[str, list[Speeds]]:
    """Returns the speeds of all turns, by who runs the model."""
    runs: dict[str, Callable[[], Speeds]] = {
        device: lambda device=device: tplaunch_speeds(model, device, options)  # type: ignore[misc]
        for device in options.devices.split(",")
    }
    with ExitStack() as stack:
        if options.llama_server is not None:
            url = stack.enter_context(llama_server(options.llama_server, model, options))
            runs[PEER] = lambda: peer_speeds(url, options)
        turns = [{name: run() for name, run in runs.items()} for _ in range(options.turns)]
    return {name: [turn[name] for turn in turns] for name in runs}


def show(model: Path, found: dict[str, list[Speeds]]) -> None:
    """Prints medians, and the others' ratios to the last one: medians of each turn's own."""
    names = list(found)
    last = names[-1]
    print(f"{model.name}, tokens/s on one core; in brackets over {last}")
    print("test   " + "".join(f"{name:>18}" for name in names))
    for test in found[last][0]:
        cells = []
        for name in names:
            speed = statistics.median(turn[test] for turn in found[name])
            ratios = [one[test] / other[test] for one, other in zip(found[name], found[last], strict=True)]
            ratio = f" ({statistics.median(ratios):.2f})" if name != last else ""
            cells.append(f"{f'{speed:.1f}{ratio}':>18}")
        print(f"{test:7}" + "".join(cells), flush=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--devices", default="cpu,numpy", help="of tplaunch (default: %(default)s)")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server, to be measured, too")
    parser.add_argument("--core", type=int, help="that all run on (default: the last one)")
    parser.add_argument("--prefill", default="128,512")
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--kv-type", default="f16", choices=["f16", "f32"])
    parser.add_argument("--activations", default="f32", help="of tplaunch (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="times in a turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(words)
    core = max(os.sched_getaffinity(0)) if options.core is None else options.core
    os.sched_setaffinity(0, {core})  # what is started from here on inherits it
    for model in options.models:
        show(model, measured(model, options))


if __name__ == "__main__":
    main()
