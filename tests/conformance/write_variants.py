"""Writes variants/NAME.npz: python -m tests.conformance.write_variants SHARED [NAME ...]

Needs llama-cpp-python from 0.3.36 on, which PyPI has as source. SHARED holds conformance/models.py.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from tests.conformance.conftest import Floats, load_builder
from tests.conformance.variant import FOLDER, Variant
from tests.conformance.variants import VARIANTS

NUM_POSITIONS = 8  # the last, of which logits are kept
FLOAT32 = 0  # ggml's number of it


def reference_logits(path: Path, tokens: list[int], context: int) -> Floats:
    """llama.cpp's [len(tokens), vocabulary], with a KV cache of float32, on the CPU."""
    model_params, params = llama_cpp.llama_model_default_params(), llama_cpp.llama_context_default_params()
    model_params.n_gpu_layers = 0
    params.n_ctx, params.n_batch, params.n_ubatch = context, context, context
    params.type_k = params.type_v = FLOAT32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    assert model, "llama.cpp refuses the file; it has said why"
    running = llama_cpp.llama_init_from_model(model, params)
    assert running, "llama.cpp can't run the model; it has said why"
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index], batch.logits[index] = token, index, 1
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
    assert llama_cpp.llama_decode(running, batch) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [llama_cpp.llama_get_logits_ith(running, index) for index in range(len(tokens))]
    logits: npt.NDArray[np.float32] = np.stack(
        [np.ctypeslib.as_array(ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (size,)) for row in rows]
    )
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(running)
    llama_cpp.llama_model_free(model)
    return logits


def write(name: str, variant: Variant, shared: Path) -> None:
    builder = load_builder(shared)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        variant.build(builder, path)
        vocabulary = next(
            shape[0]
            for tensor, shape in variant.spec(builder.specs())["tensors"]
            if tensor == "token_embd.weight"
        )
        tokens = builder.tokens(variant.seed, variant.num_tokens, vocabulary)
        logits = reference_logits(path, tokens.tolist(), variant.context)
    np.savez_compressed(FOLDER / f"{name}.npz", tokens=tokens, logits=logits[-NUM_POSITIONS:])


if __name__ == "__main__":
    for name in sys.argv[2:] or VARIANTS:
        write(name, VARIANTS[name], Path(sys.argv[1]))
