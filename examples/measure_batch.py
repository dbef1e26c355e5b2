"""Measures how many tokens a second a batch of requests gets, against LLM.generate on the same prompts.

python examples/measure_batch.py --devices 0,0 --requests 256

Both run on one loaded model, in turn, so that a ratio is firmer than its parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fastapi import FastAPI

from tplaunch import LLM, SamplingParams
from tplaunch.coordinator.batches.app_answers import answers_of
from tplaunch.coordinator.batches.batch_lines import batch_lines
from tplaunch.coordinator.batches.batch_results import open_results
from tplaunch.coordinator.batches.batch_run import BatchRun
from tplaunch.coordinator.server.app import make_app
from tplaunch.launcher.commands.serve import SWITCH_SECONDS

BEGINNINGS = ("Once upon a time", "The little fox", "One day,", "Tom and Lily")
TOGETHER = 128


async def answer_all(app: FastAPI, requests: Path, out: Path) -> None:
    async with answers_of(app) as answer:
        with open_results(out) as results:
            await BatchRun(answer, results).run(batch_lines(requests), TOGETHER)


def write_requests(path: Path, prompts: list[str], num_tokens: int) -> None:
    wishes = {"max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    with path.open("w") as file:
        for index, prompt in enumerate(prompts):
            request = {"custom_id": str(index), "method": "POST", "url": "/v1/completions"}
            print(json.dumps({**request, "body": {"prompt": prompt, **wishes}}), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="all")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("model", nargs="?", help="(default: the demo model)")
    options = parser.parse_args()
    prompts = [f"{BEGINNINGS[index % 4]} {index}" for index in range(options.requests)]
    params = SamplingParams(temperature=0, max_tokens=options.tokens, ignore_eos=True)
    num_tokens, ratios = options.requests * options.tokens, []
    model = {"demo": True} if options.model is None else {"model": options.model}
    sys.setswitchinterval(SWITCH_SECONDS)  # as the command does
    with tempfile.TemporaryDirectory() as name, LLM(**model, devices=options.devices) as llm:
        folder = Path(name)
        write_requests(folder / "requests.jsonl", prompts, options.tokens)
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
        app = make_app(llm._opened, ["model"])  # once, as the model is loaded once
        for number in range(options.repeat):
            begin = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            middle = time.perf_counter()
            asyncio.run(answer_all(app, folder / "requests.jsonl", folder / f"results{number}"))
            end = time.perf_counter()
            ratios.append((middle - begin) / (end - middle))
            print(
                f"generate {num_tokens / (middle - begin):.1f} tokens/s, batch"
                f" {num_tokens / (end - middle):.1f}, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f} of {options.repeat}")


if __name__ == "__main__":
    main()
