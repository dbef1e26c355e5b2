"""Compares what `tplaunch plan --speed` predicts with what `tplaunch bench` measures, on this machine.

python examples/measure_prediction.py --devices 0,0 -- --shape llama-160m
python examples/measure_prediction.py --devices numpy,numpy -- smollm2.gguf

Behind -- stands the model as both commands take it, with options that both have. One device, all of them
tensor-parallel and all of them in stages are compared, in decode at the beginning and at the end of the
context, of texts together, and in prefill. Both commands take turns, so that a busy machine is busy for both:
a ratio is firmer than its parts.
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
KINDS = {  # of tests, by the prediction's names
    "decode": "decode",
    "decode_at_context": "decode, end of context",
    "together": f"decode of {TOGETHER} texts",
    "prefill": "prefill",
}
Speeds = dict[tuple[str, str], float]  # tokens per second by way and kind of test


def run(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON that a command of tplaunch prints."""
    line = [sys.executable, "-m", "tplaunch", command, "--json", *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def predicted(words: Sequence[str], prompt: int) -> Speeds:
    found = run("plan", ["--speed", "--anew", "--prompt-tokens", str(prompt), *words])
    return {
        (way["way"], kind): way[kind]["tokens_per_second"]
        for way in found["ways"]
        if not way["does_not_fit"]
        for kind in KINDS
    }


def measured(words: Sequence[str], prompt: int, context: int, ways: Mapping[str, list[str]]) -> Speeds:
    """ways: how the bench is told of each."""
    tests = ["--prefill", str(prompt), "--decode", str(DECODED), "--repeat", "3"]
    tests += ["--at-context", f"0,{context - DECODED - 1}", "--batch", f"1,{TOGETHER}"]
    speeds: Speeds = {}
    for way, options in ways.items():
        for result in run("bench", [*tests, *words, *options])["results"]:
            kind = kind_of(result)
            if kind is not None:
                speeds[way, kind] = result["max_tokens_per_second"]
    return speeds


def kind_of(result: Mapping[str, Any]) -> str | None:
    """Returns the prediction's name of a test; None for one that it has not."""
    if result["kind"] == "prefill":
        return "prefill"
    if result["batch"] > 1:
        return None if result["context"] else "together"
    return "decode_at_context" if result["context"] else "decode"


def ways_of(num_ranks: int) -> dict[str, list[str]]:
    """Returns the ways of so many ranks on one host."""
    ways = {"1 device": ["--ranks", "1"]}
    if num_ranks > 1:
        ways[f"tensor {num_ranks}"] = ["--ranks", str(num_ranks)]
        ways[f"pipeline {num_ranks}"] = ["--ranks", str(num_ranks), "--pipeline", str(num_ranks)]
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", required=True, help="as the commands take them; one rank each")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prefill")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("words", nargs="+", help="the model, behind --")
    options = parser.parse_args()
    words = ["--devices", options.devices, "--context", str(options.context), *options.words]
    ways = ways_of(len(options.devices.split(",")))
    foreseen, found = [], []
    for _ in range(options.turns):
        foreseen.append(predicted(words, options.prompt))
        found.append(measured(words, options.prompt, options.context, ways))
    print(f"{' '.join(options.words)} on {options.devices}, tokens/s")
    print("way         test                    predicted  measured  ratio")
    for way, kind in found[0]:
        one = statistics.median(each[way, kind] for each in foreseen)
        other = statistics.median(each[way, kind] for each in found)
        print(f"{way:10}  {KINDS[kind]:22}  {one:9.4g}  {other:8.4g}  {one / other:5.2f}")


if __name__ == "__main__":
    main()
