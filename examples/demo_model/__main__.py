"""Makes the demo model from nothing: python -m examples.demo_model.

It knows the steps and the files they leave behind. It does not know how a step is done.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from examples.demo_model.corpus import StoryWriter, words_to_remember
from examples.demo_model.export import export_gguf
from examples.demo_model.model import Llama, ModelConfig
from examples.demo_model.tokenizer import BEGIN, END, load_tokenizer, train_tokenizer
from examples.demo_model.train import Stage, Trainer, TrainingConfig, greedy, load_checkpoint, save_checkpoint

HERE = Path(__file__).parent
SAMPLE_PROMPTS = (
    "Once upon a time",
    "One day, a brave dog named Max",
    "The little fox",
    "Tom and his sister Anna went to the park",
)

# The language first, with every name equally likely. Then who is who, with common names and rare ones; at
# last with less and less haste. The rates jump up again because each stage begins with fresh optimisers.
STAGES = (
    Stage(steps=800, warmup_steps=100, first_learning_rate=3e-3, last_learning_rate=2.1e-3),
    Stage(600, 20, 2.5e-3, 1e-3, emphasis=4.0, opening_steps=120),
    Stage(300, 20, 1.5e-3, 5e-4, emphasis=4.0),
    Stage(450, 20, 1.2e-3, 0.0, emphasis=3.0),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo_model", description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE.parent / "demo-stories.gguf")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="folder for the checkpoint")
    parser.add_argument("--stories", type=int, default=12000, help="how many to write for each stage")
    parser.add_argument("--shorten", type=int, default=1, help="divide all steps by this, to try things out")
    parser.add_argument("--seed", type=int, default=TrainingConfig.seed)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--float32", action="store_true", help="train without bfloat16 products")
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    checkpoint, tokenizer_path = arguments.work / "checkpoint.pt", arguments.work / "tokenizer.model"
    if not arguments.export_only:
        make_model(arguments, checkpoint, tokenizer_path)
    export_gguf(load_checkpoint(checkpoint), tokenizer_path, arguments.output)
    print(f"wrote {arguments.output}, {arguments.output.stat().st_size} bytes")


def make_model(arguments: argparse.Namespace, checkpoint: Path, tokenizer_path: Path) -> None:
    """Stories, tokenizer and training, to the last checkpoint."""
    model_config = ModelConfig()
    first_stories = write_stories(arguments, 0)
    train_tokenizer(first_stories, model_config.vocab_size, tokenizer_path.with_suffix(""), arguments.threads)
    tokenizer = load_tokenizer(tokenizer_path)

    def keep_and_show(model: Llama) -> None:
        save_checkpoint(model, checkpoint)
        for prompt in SAMPLE_PROMPTS:
            ids = tokenizer.encode(prompt)
            print("  >", tokenizer.decode(ids + list(greedy(model, [BEGIN, *ids], END))), flush=True)

    torch.manual_seed(arguments.seed)
    config = TrainingConfig(seed=arguments.seed, bfloat16=not arguments.float32)
    pieces = [tokenizer.piece_to_id("\u2581" + word) for word in words_to_remember()]
    trainer = Trainer(Llama(model_config), config, [piece for piece in pieces if piece > END])
    for index, stage in enumerate(STAGES):
        rows = [[BEGIN, *ids, END] for ids in tokenizer.encode(write_stories(arguments, index))]
        trainer.run(rows, shortened(stage, arguments.shorten), keep_and_show)


def write_stories(arguments: argparse.Namespace, stage_index: int) -> list[str]:
    writer = StoryWriter(arguments.seed + stage_index, even=stage_index == 0)
    return list(writer.stories(arguments.stories))


def shortened(stage: Stage, divisor: int) -> Stage:
    return replace(stage, steps=stage.steps // divisor, opening_steps=stage.opening_steps // divisor)


if __name__ == "__main__":
    main()
