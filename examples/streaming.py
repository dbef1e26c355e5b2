"""Tells several stories at once and prints each as it grows; the longest is left to itself half-way.

python examples/streaming.py                           # the demo model
python examples/streaming.py -m model.gguf --devices 0,1
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tplaunch import AsyncLLM, SamplingParams

BEGINNINGS = ["Once upon a time", "The rabbit", "One rainy morning"]


async def tell(llm: AsyncLLM, number: int, prompt: str, max_characters: int | None = None) -> None:
    """Prints what is new of a story; leaving the loop ends the request."""
    shown = ""
    async for output in llm.generate(prompt, SamplingParams(temperature=0.8, seed=number, max_tokens=40)):
        text = output.outputs[0].text
        print(f"{number}: {text[len(shown) :]!r}")
        shown = text
        if max_characters is not None and len(text) >= max_characters:
            print(f"{number}: enough of this one")
            break
    else:
        print(f"{number}: {output.prompt}{shown}")


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", type=Path, help="a GGUF file (default: the demo model)")
    parser.add_argument("--devices", default="all")
    options = parser.parse_args()

    # Loading blocks; in a thread of its own an event loop goes on meanwhile.
    llm = await asyncio.to_thread(
        lambda: AsyncLLM(options.model, demo=options.model is None, devices=options.devices)
    )
    async with llm:
        stories = [tell(llm, number, prompt) for number, prompt in enumerate(BEGINNINGS, 1)]
        await asyncio.gather(*stories, tell(llm, len(BEGINNINGS) + 1, "In the garden", max_characters=30))


if __name__ == "__main__":
    asyncio.run(main())
