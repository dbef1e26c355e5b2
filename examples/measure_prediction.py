"""Compares what `tplaunch plan --speed` predicts with what `tplaunch bench` measures, on this machine.

python examples/measure_prediction.py --devices 0,0 -- --shape llama-160m
python examples/measure_prediction.py --devices cpu,cpu -- smollm2.gguf

Behind -- stands the model as both commands take it, with options that both have. One device and all of them
together are compared, in decode at the beginning and at the end of the context, of texts together, and in
prefill. Both take turns, so that a busy machine is busy for both: a ratio is firmer than its parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

DECODED = 16  # tokens of a test
TOGETHER = 4  # texts, as a prediction has them


def run(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON that a command of tplaunch prints."""
    line = [sys.executable, "-m", "tplaunch", command, "--json", *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def predicted(words: Sequence[str], prompt: int) -> dict[tuple[int, str], float]:
    """Tokens per second by the number of ranks and the kind of test."""
    found = run("plan", ["--speed", "--prompt-tokens", str(prompt), *words])
    speeds = {}
    for way in found["ways"]:
        if max(way["stages"]) == 0:
            for kind in ("decode", "decode_at_context", "together", "prefill"):
                speeds[len(way["hosts"]), kind] = way[kind]["tokens_per_second"]
    return speeds


def measured(words: Sequence[str], prompt: int, context: int, ranks: str) -> dict[tuple[int, str], float]:
    tests = ["--prefill", str(prompt), "--decode", str(DECODED), "--repeat", "2", "--ranks", ranks]
    far = context - DECODED - 1
    found = run("bench", [*tests, "--at-context", f"0,{far}", "--batch", f"1,{TOGETHER}", *words])
    speeds = {}
    for result in found["results"]:
        kind = kind_of(result)
        if kind is not None:
            speeds[result["ranks"], kind] = result["max_tokens_per_second"]
    return speeds


def kind_of(result: Mapping[str, Any]) -> str | None:
    """The prediction's name of a test; None for one that it has not."""
    if result["kind"] == "prefill":
        return "prefill"
    if result["batch"] > 1:
        return None if result["context"] else "together"
    return "decode_at_context" if result["context"] else "decode"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", required=True, help="as the commands take them; one rank each")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prefill")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("words", nargs="+", help="the model, behind --")
    options = parser.parse_args()
    words = ["--devices", options.devices, "--context", str(options.context), *options.words]
    count = len(options.devices.split(","))
    ranks = "1" if count == 1 else f"1,{count}"
    foreseen, found = [], []
    for _ in range(options.turns):
        foreseen.append(predicted(words, options.prompt))
        found.append(measured(words, options.prompt, options.context, ranks))
    print(f"{' '.join(options.words)} on {options.devices}, tokens/s")
    print("ranks  test               predicted  measured  ratio")
    for key in sorted(foreseen[0].keys() & found[0].keys()):
        one = statistics.median(each[key] for each in foreseen)
        other = statistics.median(each[key] for each in found)
        print(f"{key[0]:5}  {key[1]:17}  {one:9.4g}  {other:8.4g}  {one / other:5.2f}")


if __name__ == "__main__":
    main()
