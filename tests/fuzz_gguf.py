"""Tries mutated model files: each is run, or refused by a sentence, within a bound of time and memory.

python -m tests.fuzz_gguf --seconds 600
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.conformance.conftest import load_builder
from tests.drivers import REPOSITORY
from tests.models import LocalEngine, config_of, make_spec, tensor_shapes
from tests.mutated_files import Document, Tensor, keys_of, mutated
from tests.steps import Rows, step_of
from tests.unit import test_tokenizer_rules, test_unigram_tokenizer
from tests.vocabularies import byte_level_metadata
from tplaunch.coordinator.architectures.keys import READERS
from tplaunch.coordinator.gguf.header import GgufError
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import PlanError
from tplaunch.coordinator.text.tokenizer import TokenizerError, load_tokenizer
from tplaunch.launcher.devices import planned_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.arrange import arrange
from tplaunch.launcher.model import open_model

SENTENCES = (GgufError, ModelError, PlanError, TokenizerError, UsageError)
MAX_SECONDS = 20  # of the processor, for one file
MAX_MEMORY = 3 << 30  # of a process that has tried some files
BATCH = 40  # files that one process tries
TEXT = "Once upon a time\n\n<|im_end|> <s>\u00e4\u2581\U0001f600 <dna>ACGT</dna> 12345" + 40 * "a"
LIMITS = Limits(
    context_length=16, num_blocks=4, block_length=4, max_rows=4, max_logit_rows=4, kv_type="f32", num_slots=1,
    num_window_blocks=4,
)  # fmt: skip
MAX_RUN_BYTES = 64 << 20  # of models that are run, too


def seeds() -> list[Document]:
    """Small models of all architectures where those are at hand, with vocabularies of every kind."""
    spec = make_spec(vocabulary_size=300)
    tensors = [Tensor(name.encode(), shape[::-1]) for name, shape in tensor_shapes(spec).items()]
    numbers = {
        "block_count": 2, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4,
    }  # fmt: skip
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in numbers.items()}}
    letters = [(text, -1.0, 1) for text in ("a", "b", "ab", "\u2581a", "aa")]
    charsmap = list(test_unigram_tokenizer.TABLE)
    vocabularies = [
        test_tokenizer_rules.metadata_with(*letters),
        byte_level_metadata([("a", "b"), ("ab", "a")], [("<|im_end|>", 3), ("<x>", 4)]),
        byte_level_metadata([("A", "C")], [("<dna>", 3)], model="hybriddna", pre="bloom"),
        test_unigram_tokenizer.metadata_with(*letters, precompiled_charsmap=charsmap),
        {
            **test_tokenizer_rules.metadata_with(*letters),
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.merges": ["a b"],
        },
    ]
    found = [Document(keys_of({**metadata, **vocabulary}), tensors) for vocabulary in vocabularies]
    shared = REPOSITORY.parent / "shared"
    if (shared / "conformance").is_dir():
        for model in load_builder(shared).specs().values():
            keys = {key: value for key, _, _, value in model["kv"]}
            found.append(
                Document(
                    keys_of({"general.architecture": model["arch"], **keys}),
                    [Tensor(name.encode(), tuple(shape[::-1])) for name, shape in model["tensors"]],
                )
            )
    return found


def names_of(documents: list[Document]) -> list[bytes]:
    """Keys that some file has, and those that few have, of every architecture."""
    found = {key for document in documents for key, _ in document.keys}
    rare = (
        *(*READERS, "attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"),
        *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "expert_count"),
        *("rope.scaling.attn_factor", "nextn_predict_layers", "expert_used_count", "expert_group_count"),
        *("attention.temperature_scale", "attention.recurrent_layers", "attention.sliding_window_pattern"),
        *("attention.q_lora_rank", "rope.scale_linear", "full_attention_interval", "attention.causal"),
    )
    architectures = {key.split(b".")[0] for key in found} - {b"general", b"tokenizer"}
    found |= {architecture + b"." + key.encode() for architecture in architectures for key in rare}
    ids = ("bos", "eos", "unknown", "eot", "fim_pad")
    found |= {f"tokenizer.ggml.{name}_token_id".encode() for name in ids}
    flags = (
        "add_bos_token",
        "add_eos_token",
        "add_space_prefix",
        "remove_extra_whitespaces",
        "suppress_tokens",
    )
    found |= {f"tokenizer.ggml.{name}".encode() for name in (*flags, "pre", "precompiled_charsmap")}
    return sorted(found | {b"general.type", b"general.alignment", b"split.count", b"split.no"})


def try_file(path: Path) -> str:
    """How far a file got; what is no sentence is raised."""
    stage = "read"
    try:
        metadata = read_model(path).metadata
        _try(lambda: _tokenize(metadata))
        model = open_model(config_of(path))
        stage = "opened"
        arrangement = arrange(config_of(path), model, planned_devices("numpy,numpy")[0])
        stage = "planned"
        if sum(rank.weights + rank.copies for rank in arrangement.bytes) < MAX_RUN_BYTES:
            tables = {0: [0]}
            step = step_of(
                1, [Rows([0, 1, 0], write_slot=0 if model.spec.is_recurrent else -1)], [2], tables, tables
            )
            with np.errstate(all="ignore"):
                LocalEngine(path, [1.0, 1.0], LIMITS).logits(step)
            stage = "run"
    except SENTENCES as error:
        _check_sentence(error)
    return stage


def _tokenize(metadata: dict[str, object]) -> None:
    tokenizer = load_tokenizer(metadata)
    for text in (TEXT, "a" * 20_000):
        for token in tokenizer.encode(text, parse_special=True):
            tokenizer.token_bytes(token)


def _try(do: Callable[[], None]) -> None:
    try:
        do()
    except SENTENCES as error:
        _check_sentence(error)


def _check_sentence(error: Exception) -> None:
    assert 0 < len(str(error)) < 1500 and "\n" not in str(error), ascii(error)


def try_batch(numbers: range, documents: list[Document], folder: Path, report: int) -> None:
    """In a process of its own: notes each file's number, then how far it got, or what went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    names = names_of(documents)
    path = folder / "m.gguf"
    for number in numbers:
        os.write(report, f"{number} ".encode())
        try:
            rng = random.Random(number)
            mutated(rng, rng.choice(documents), names).write(path)
            signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # SIGPROF ends the process
            stage = try_file(path)
        except Exception:
            stage = "FAILED\n" + traceback.format_exc()[-3000:]
        os.write(report, f"{stage}\0".encode("utf-8", "backslashreplace"))


def run_batch(numbers: range, documents: list[Document], folder: Path) -> Iterator[tuple[int, str]]:
    """The numbers of files with how far each got; a process that ends early ends with a failure."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            try_batch(numbers, documents, folder, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as file:
        parts = file.read().split("\0")
    _, status = os.waitpid(child, 0)
    reported = [part.partition(" ") for part in parts if part] or [(str(numbers.start), " ", "")]
    for number, _, stage in reported:
        yield int(number), stage or f"FAILED\nended with status {status}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_gguf", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="(default: %(default)s)")
    parser.add_argument("--files", type=int, default=10**9, help="at most so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to try one again")
    options = parser.parse_args()
    end, counts, failed = time.monotonic() + options.seconds, dict[str, int](), 0
    documents = seeds()
    with tempfile.TemporaryDirectory(prefix="tpl-fuzz-") as folder:
        last = options.first + options.files
        for first in range(options.first, last, BATCH):
            if time.monotonic() > end:
                break
            next_number = first
            while next_number < min(first + BATCH, last):  # goes on behind a file that ended the process
                batch = range(next_number, min(first + BATCH, last))
                next_number = batch.stop
                for number, stage in run_batch(batch, documents, Path(folder)):
                    next_number = number + 1
                    counts[stage.split("\n")[0]] = counts.get(stage.split("\n")[0], 0) + 1
                    if stage.startswith("FAILED"):
                        failed += 1
                        print(f"file {number}: {stage}", flush=True)
    print(f"{sum(counts.values())} files: {counts}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
