"""Files that go with a model, given in the place of one, are called what they are."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.models import config_of, make_spec, write_llama
from tests.vocabularies import byte_level_metadata
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.launcher.model import open_model

FILES = {
    "lora": ("llama", "adapter", "blk.0.attn_q.weight.lora_a", "an adapter"),
    "old lora": ("llama", None, "blk.0.attn_q.weight.lora_b", "an adapter"),
    "imatrix": ("", "imatrix", "blk.0.attn_q.weight.in_sum2", "an importance matrix"),
    "imatrix of llama": ("llama", None, "blk.0.attn_q.weight.counts", "an importance matrix"),
    "mmproj": ("clip", "mmproj", "v.blk.0.attn_q.weight", "a projector"),
    "old mmproj": ("clip", None, "mm.0.weight", "a projector"),
    "mmproj of llama": ("llama", None, "v.blk.0.attn_q.weight", "a projector"),
    "control vector": ("controlvector", None, "direction.1", "a control vector"),
}


def write(path: Path, architecture: str, kind: str | None, tensor: str = "") -> None:
    writer = gguf.GGUFWriter(path, architecture)
    if not architecture:
        writer.kv_data[0].clear()
    if kind is not None:
        writer.add_string("general.type", kind)
    if tensor:
        writer.add_tensor(tensor, np.zeros((4, 64), np.float32))
    else:
        writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_model(tmp_path: Path, name: str) -> None:
    architecture, kind, tensor, expected = FILES[name]
    write(tmp_path / "file.gguf", architecture, kind, tensor)
    with pytest.raises(ModelError, match=f"file.gguf is no model, but {expected} "):
        open_model(config_of(tmp_path / "file.gguf"))


def test_a_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "file.gguf", "llama", None)
    with pytest.raises(ModelError, match="holds no tensors, only a vocabulary: there is nothing to run"):
        open_model(config_of(tmp_path / "file.gguf"))


def test_models_say_that_they_are_one_or_nothing(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", vocabulary={"general.type": "model", "caf\u00e9": "x"})
    assert open_model(config_of(tmp_path / "m.gguf")).num_texts == 0


@pytest.mark.parametrize("rows", [255, 256, 320])
def test_rows_are_compared_with_texts(tmp_path: Path, rows: int) -> None:
    """Rows without a text are padding, never generated; a text without a row is of another model."""
    spec = make_spec(vocabulary_size=rows)
    write_llama(tmp_path / "m.gguf", spec, vocabulary=byte_level_metadata())
    if rows < 256:
        with pytest.raises(ModelError, match="tokenizer has 256 tokens, but the model's embeddings only 255"):
            open_model(config_of(tmp_path / "m.gguf"))
        return
    assert open_model(config_of(tmp_path / "m.gguf")).padding == range(256, rows)
