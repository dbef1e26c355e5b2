"""Reads the GGUF file back and tells stories with NumPy alone: python -m examples.demo_model.check "Once".

It knows the file and nothing of how it was made: no code is shared with the training model, so that agreement
of the two shows that names, layouts, rope and tokenizer in the file are what they should be.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import TokenType
from gguf.quants import dequantize

Array = np.ndarray[Any, np.dtype[np.float32]]
SPACE = "\u2581"
MAX_NEW_TOKENS = 400
DEFAULT_FILE = Path(__file__).parent.parent / "demo-stories.gguf"


class Tokenizer:
    """SentencePiece's BPE as llama.cpp does it: always merge the neighbours whose union scores best."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self.pieces: list[str] = field(reader, "tokenizer.ggml.tokens")
        self.scores: list[float] = field(reader, "tokenizer.ggml.scores")
        self.types: list[int] = field(reader, "tokenizer.ggml.token_type")
        self.begin: int = field(reader, "tokenizer.ggml.bos_token_id")
        self.end: int = field(reader, "tokenizer.ggml.eos_token_id")
        normal = [token for token, kind in enumerate(self.types) if kind == TokenType.NORMAL]
        self.ids = {self.pieces[token]: token for token in normal}

    def encode(self, text: str) -> list[int]:
        parts = list((" " + text).replace(" ", SPACE)) if text else []
        while pairs := [i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in self.ids]:
            best = max(pairs, key=lambda i: (self.scores[self.ids[parts[i] + parts[i + 1]]], -i))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return [self.begin] + [token for part in parts for token in self.tokens_of(part)]

    def tokens_of(self, part: str) -> list[int]:
        if part in self.ids:
            return [self.ids[part]]
        return [self.pieces.index(f"<0x{byte:02X}>") for byte in part.encode("utf-8")]

    def decode(self, tokens: list[int]) -> str:
        data = b"".join(self.bytes_of(token) for token in tokens)
        return data.decode("utf-8", errors="replace").removeprefix(" ")

    def bytes_of(self, token: int) -> bytes:
        if self.types[token] == TokenType.BYTE:
            return bytes([int(self.pieces[token][3:5], 16)])
        if self.types[token] == TokenType.NORMAL:
            return self.pieces[token].replace(SPACE, " ").encode("utf-8")
        return b""


def field(reader: gguf.GGUFReader, name: str) -> Any:
    """A metadata value by its full name."""
    value = reader.get_field(name)
    if value is None:
        raise ValueError(f"the file has no {name}")
    return value.contents()


class Llama:
    """One token at a time, with a cache of keys and values."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self.weights: dict[str, Array] = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in reader.tensors
        }
        self.num_blocks: int = field(reader, "llama.block_count")
        self.num_heads: int = field(reader, "llama.attention.head_count")
        self.num_kv_heads: int = field(reader, "llama.attention.head_count_kv")
        self.epsilon: float = field(reader, "llama.attention.layer_norm_rms_epsilon")
        self.head_dim: int = field(reader, "llama.embedding_length") // self.num_heads
        exponents = np.arange(0, self.head_dim, 2) / self.head_dim
        self.frequencies = field(reader, "llama.rope.freq_base") ** -exponents
        self.cache: list[list[tuple[Array, Array]]] = [[] for _ in range(self.num_blocks)]

    def norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt(np.mean(x * x) + self.epsilon)
        return np.asarray(x / scale * self.weights[name + ".weight"])

    def project(self, x: Array, name: str) -> Array:
        return np.asarray(self.weights[name + ".weight"] @ x)

    def rotate(self, heads: Array, position: int) -> Array:
        """Neighbouring elements turn together; heads: [head, head_dim]."""
        turns = np.exp(1j * position * self.frequencies)
        pairs = (heads[:, 0::2] + 1j * heads[:, 1::2]) * turns
        return np.stack((pairs.real, pairs.imag), axis=-1).reshape(heads.shape).astype(np.float32)

    def attend(self, x: Array, block: int) -> Array:
        name, cache = f"blk.{block}", self.cache[block]
        position = len(cache)
        query = self.rotate(self.project(x, f"{name}.attn_q").reshape(self.num_heads, -1), position)
        key = self.rotate(self.project(x, f"{name}.attn_k").reshape(self.num_kv_heads, -1), position)
        cache.append((key, self.project(x, f"{name}.attn_v").reshape(self.num_kv_heads, -1)))
        group = self.num_heads // self.num_kv_heads
        keys = np.stack([key for key, _ in cache]).repeat(group, axis=1)  # [position, head, head_dim]
        values = np.stack([value for _, value in cache]).repeat(group, axis=1)
        scores = np.einsum("hd,phd->hp", query, keys) / np.sqrt(self.head_dim)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return self.project(np.einsum("hp,phd->hd", weights, values).reshape(-1), f"{name}.attn_output")

    def feed_forward(self, x: Array, block: int) -> Array:
        gate, up = self.project(x, f"blk.{block}.ffn_gate"), self.project(x, f"blk.{block}.ffn_up")
        return self.project(gate / (1 + np.exp(-gate)) * up, f"blk.{block}.ffn_down")

    def step(self, token: int) -> Array:
        """The logits [vocab_size] after one more token."""
        hidden: Array = self.weights["token_embd.weight"][token]
        for block in range(self.num_blocks):
            hidden = hidden + self.attend(self.norm(hidden, f"blk.{block}.attn_norm"), block)
            hidden = hidden + self.feed_forward(self.norm(hidden, f"blk.{block}.ffn_norm"), block)
        output = "output" if "output.weight" in self.weights else "token_embd"  # tied
        return self.project(self.norm(hidden, "output_norm"), output)


def tell(reader: gguf.GGUFReader, prompt: str, temperature: float, seed: int) -> tuple[str, bool]:
    """The story, and whether it came to its end."""
    tokenizer, model, rng = Tokenizer(reader), Llama(reader), np.random.default_rng(seed)
    tokens = tokenizer.encode(prompt)
    for token in tokens:
        logits = model.step(token)
    for _ in range(MAX_NEW_TOKENS):
        noise = rng.gumbel(size=logits.shape) * temperature  # the maximum is a sample at this temperature
        token = int(np.argmax(logits + noise))
        if token == tokenizer.end:
            return tokenizer.decode(tokens), True
        tokens.append(token)
        logits = model.step(token)
    return tokenizer.decode(tokens), False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo_model.check", description=__doc__)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    reader = gguf.GGUFReader(arguments.file)
    for prompt in arguments.prompts:
        story, ended = tell(reader, prompt, arguments.temperature, arguments.seed)
        print(story + ("" if ended else " [cut off]"), end="\n\n")


if __name__ == "__main__":
    main()
