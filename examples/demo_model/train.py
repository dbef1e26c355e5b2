"""Trains the model on rows of token ids, stage by stage, and writes checkpoints.

It knows optimisers and schedules. It does not know what the tokens mean.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.demo_model.data import IGNORED, epochs
from examples.demo_model.model import Llama, ModelConfig

Batch = tuple[np.ndarray, np.ndarray]  # inputs and labels, both [rows, length] int64


@dataclass(frozen=True)
class Stage:
    """A stretch of training; the learning rate goes in a line from the first to the last."""

    steps: int
    warmup_steps: int
    first_learning_rate: float
    last_learning_rate: float
    emphasis: float = 1.0  # the weight of the emphasised tokens in the loss
    opening_steps: int = 0  # steps at the start with only the first opening_length tokens of each story
    opening_length: int = 100

    def learning_rate(self, step: int) -> float:
        """The rate at a step, counted from 0."""
        progress = step / self.steps
        rate = self.first_learning_rate * (1 - progress) + self.last_learning_rate * progress
        return rate * min(1.0, (step + 1) / self.warmup_steps)


@dataclass(frozen=True)
class TrainingConfig:
    """The settings that all stages of training share."""

    tokens_per_batch: int = 3072
    weight_decay: float = 0.02
    max_gradient_norm: float = 1.0
    join_share: float = 0.04  # of the rows that hold two stories
    bfloat16: bool = True
    report_every: int = 25
    checkpoint_every: int = 200
    seed: int = 1


def make_optimizers(model: Llama, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon/) for the blocks' matrices, AdamW for the rest."""
    matrices = [weight for weight in model.blk.parameters() if weight.ndim == 2]
    gains = [weight for weight in model.parameters() if weight.ndim == 1]
    muon = torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW([model.token_embd.weight, *gains], betas=(0.9, 0.95), weight_decay=0.0)]


def losses_of(model: Llama, batch: Batch, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """Cross entropy in nats and label of every token that has a label, both [tokens]."""
    tokens, labels = batch
    with torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext():
        logits = model(torch.from_numpy(tokens))
    targets = torch.from_numpy(np.ascontiguousarray(labels)).flatten()
    kept = targets != IGNORED
    losses = nn.functional.cross_entropy(logits.float().flatten(0, 1)[kept], targets[kept], reduction="none")
    return losses, targets[kept]


def make_batches(rows: list[list[int]], stage: Stage, config: TrainingConfig, limit: int) -> Iterator[Batch]:
    """Openings first, then whole stories: telling characters apart is easier over a short distance."""
    openings = [row[: stage.opening_length] for row in rows]
    short = epochs(openings, config.tokens_per_batch, 0.0, limit, config.seed)
    whole = epochs(rows, config.tokens_per_batch, config.join_share, limit, config.seed)
    return itertools.chain(itertools.islice(short, stage.opening_steps), whole)


class Trainer:
    """The model, and what it takes to move it."""

    def __init__(self, model: Llama, config: TrainingConfig, emphasised: list[int]) -> None:
        self.model, self.config = model, config
        self.emphasised = torch.zeros(model.config.vocab_size, dtype=torch.bool)
        self.emphasised[emphasised] = True

    def run(self, rows: list[list[int]], stage: Stage, on_checkpoint: Callable[[Llama], None]) -> None:
        """All steps of a stage, with fresh optimisers."""
        optimizers = make_optimizers(self.model, self.config.weight_decay)
        batches = make_batches(rows, stage, self.config, self.model.config.context_length)
        progress = Progress(stage.steps, self.config.report_every)
        for step in range(stage.steps):
            losses, targets = losses_of(self.model, next(batches), self.config.bfloat16)
            weights = torch.where(self.emphasised[targets], stage.emphasis, 1.0)
            ((losses * weights).sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
            self.update(optimizers, stage.learning_rate(step))
            progress.add(losses.detach(), losses.detach()[self.emphasised[targets]])
            if (step + 1) % self.config.checkpoint_every == 0 or step + 1 == stage.steps:
                on_checkpoint(self.model)

    def update(self, optimizers: list[torch.optim.Optimizer], learning_rate: float) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_gradient_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.model.zero_grad(set_to_none=True)


class Progress:
    """Prints mean losses and the speed now and then."""

    def __init__(self, steps: int, report_every: int) -> None:
        self.steps, self.report_every = steps, report_every
        self.started, self.step, self.num_tokens = time.monotonic(), 0, 0
        self.all: list[float] = []
        self.emphasised: list[float] = []

    def add(self, losses: Tensor, emphasised: Tensor) -> None:
        self.step += 1
        self.num_tokens += len(losses)
        self.all.append(losses.mean().item())
        self.emphasised.append(emphasised.mean().item())
        if self.step % self.report_every == 0 or self.step == self.steps:
            self.report()

    def report(self) -> None:
        seconds = time.monotonic() - self.started
        means = f"loss {np.mean(self.all):.4f}, of names and pronouns {np.mean(self.emphasised):.4f}"
        speed = self.num_tokens / seconds
        print(f"step {self.step}/{self.steps}  {means}  {speed:.0f} tokens/s  {seconds:.0f} s", flush=True)
        self.all.clear()
        self.emphasised.clear()


def save_checkpoint(model: Llama, path: Path) -> None:
    """Write to a second file first, so that there is a whole checkpoint at any time."""
    partial = path.with_suffix(".partial")
    torch.save({"config": asdict(model.config), "weights": model.state_dict()}, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> Llama:
    stored = torch.load(path, weights_only=True)
    model = Llama(ModelConfig(**stored["config"]))
    model.load_state_dict(stored["weights"])
    return model


@torch.inference_mode()
def greedy(model: Llama, prompt: list[int], end: int, max_new_tokens: int = 400) -> Iterator[int]:
    """The most likely continuation, without a cache: slow, and simple enough to trust."""
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token == end:
            return
        tokens.append(token)
        yield token
