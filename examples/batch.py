"""Continues every line of a file or of standard input, all of them together, and prints them as JSON lines.

python examples/batch.py                               # the demo model, some beginnings of stories
python examples/batch.py -m model.gguf prompts.txt
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tplaunch import LLM, SamplingParams

BEGINNINGS = ["Once upon a time", "The rabbit", "One rainy morning", "In the garden"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, help="a prompt a line; - for standard input")
    parser.add_argument("-m", "--model", type=Path, help="a GGUF file (default: the demo model)")
    parser.add_argument("--devices", default="all")
    parser.add_argument("-n", "--max-tokens", type=int, default=32)
    options = parser.parse_args()

    lines = BEGINNINGS
    if options.file is not None:
        text = sys.stdin.read() if str(options.file) == "-" else options.file.read_text()
        lines = [line for line in text.splitlines() if line]
    params = SamplingParams(temperature=0.8, seed=1, max_tokens=options.max_tokens)
    is_demo = options.model is None
    with LLM(options.model, demo=is_demo, devices=options.devices) as llm:
        for output in llm.generate(lines, params):
            (text,) = output.outputs
            print(json.dumps({"prompt": output.prompt, "text": text.text, "reason": text.finish_reason}))


if __name__ == "__main__":
    main()
