"""Models of many weight types on Vulkan devices: what loading writes is what the kernels read."""

from __future__ import annotations

from pathlib import Path

from tests.models import LocalEngine, make_spec, write_llama
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import assert_alike, engine_on, on, run

SPEC = make_spec(
    num_layers=1,
    embedding_length=256,
    num_heads=4,
    num_kv_heads=2,
    key_length=32,
    value_length=64,
    feed_forward_length=512,
)
# Codebooks, also for several matrices in one buffer; planes of all kinds; blocks of 32 and 256.
TYPES = {
    "token_embd.weight": "Q2_K",
    "attn_q.weight": "IQ2_XS",
    "attn_k.weight": "IQ2_XS",
    "attn_v.weight": "Q5_1",
    "attn_output.weight": "Q5_K",
    "ffn_gate.weight": "IQ3_S",
    "ffn_up.weight": "IQ3_S",
    "ffn_down.weight": "TQ1_0",
    "output.weight": "Q6_K",
}


def test_logits_of_many_types_are_numpys(open_device: Opener, tmp_path: Path) -> None:
    """Two ranks, which cut through the blocks of 256 of the attention's output and of FFN down."""
    write_llama(tmp_path / "m.gguf", SPEC, TYPES)
    engine = engine_on(tmp_path / "m.gguf", [on(open_device, "lavapipe")] * 2, [1, 2])
    assert_alike(run(engine), run(LocalEngine(tmp_path / "m.gguf", [1, 2])))
