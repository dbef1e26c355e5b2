"""The demo model's architecture: a small Llama in PyTorch, for training only.

It knows shapes and arithmetic. It does not know text, files or the optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the names follow GGUF's metadata keys."""

    vocab_size: int = 2048
    embedding_length: int = 256
    block_count: int = 5
    feed_forward_length: int = 768
    head_count: int = 8
    head_count_kv: int = 4
    context_length: int = 512
    rms_epsilon: float = 1e-5
    rope_freq_base: float = 10000.0

    def __post_init__(self) -> None:
        if self.embedding_length % self.head_count or self.head_count % self.head_count_kv:
            raise ValueError(f"the head counts do not divide the model: {self}")

    @property
    def head_dim(self) -> int:
        return self.embedding_length // self.head_count


def rope_table(config: ModelConfig) -> Tensor:
    """Cosines and sines per position, [2, context_length, head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    positions = torch.arange(config.context_length, dtype=torch.float64)
    angles = torch.outer(positions, config.rope_freq_base**-exponents)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the pairs (x[2i], x[2i + 1]), as llama.cpp's "llama" does; x: [batch, head, row, head_dim]."""
    cosine, sine = rope[0], rope[1]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


class Block(nn.Module):
    """One transformer block; the submodules carry GGUF's own tensor names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.embedding_length, config.feed_forward_length
        self.attn_norm = nn.RMSNorm(width, eps=config.rms_epsilon)
        self.attn_q = nn.Linear(width, config.head_count * config.head_dim, bias=False)
        self.attn_k = nn.Linear(width, config.head_count_kv * config.head_dim, bias=False)
        self.attn_v = nn.Linear(width, config.head_count_kv * config.head_dim, bias=False)
        self.attn_output = nn.Linear(config.head_count * config.head_dim, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=config.rms_epsilon)
        self.ffn_gate = nn.Linear(width, inner, bias=False)
        self.ffn_up = nn.Linear(width, inner, bias=False)
        self.ffn_down = nn.Linear(inner, width, bias=False)

    def heads(self, x: Tensor, count: int) -> Tensor:
        batch, rows, _ = x.shape
        return x.view(batch, rows, count, self.config.head_dim).transpose(
            1, 2
        )  # [batch, head, row, head_dim]

    def attention(self, x: Tensor, rope: Tensor) -> Tensor:
        config = self.config
        query = rotate(self.heads(self.attn_q(x), config.head_count), rope)
        key = rotate(self.heads(self.attn_k(x), config.head_count_kv), rope)
        value = self.heads(self.attn_v(x), config.head_count_kv)
        group = config.head_count // config.head_count_kv
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attn_output(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_down(functional.silu(self.ffn_gate(x)) * self.ffn_up(x))  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, rope: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attn_norm(hidden), rope)
        return hidden + self.feed_forward(self.ffn_norm(hidden))


class Llama(nn.Module):
    """The whole network; the output projection is the embedding, transposed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.embedding_length)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.block_count))
        self.output_norm = nn.RMSNorm(config.embedding_length, eps=config.rms_epsilon)
        self.register_buffer("rope", rope_table(config), persistent=False)
        self.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Block):  # the residual stream should not grow with depth at the start
            for projection in (module.attn_output, module.ffn_down):
                nn.init.normal_(projection.weight, std=0.02 / (2 * self.config.block_count) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, row, vocab_size] for tokens [batch, row]."""
        hidden = self.token_embd(tokens)
        assert isinstance(self.rope, Tensor)
        rope = self.rope[:, : tokens.shape[1]]
        for block in self.blk:
            hidden = block(hidden, rope)
        return functional.linear(self.output_norm(hidden), self.token_embd.weight)
