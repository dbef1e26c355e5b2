"""Writes a trained model and its tokenizer as one GGUF file with Q8_0 matrices.

It knows GGUF's names for things. It does not know how the model was trained.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import sentencepiece
from gguf.constants import GGMLQuantizationType, LlamaFileType, TokenType
from gguf.quants import quantize

from examples.demo_model.model import Llama, ModelConfig
from examples.demo_model.tokenizer import BEGIN, END, UNKNOWN, load_tokenizer

NAME = "demo-stories"
DESCRIPTION = (
    "A small storyteller for demonstrations and tests, trained on stories from a grammar of its own."
)


def export_gguf(model: Llama, tokenizer_path: Path, output: Path) -> None:
    """Write the whole file anew."""
    partial = output.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "llama")
    add_model_metadata(writer, model.config)
    add_tokenizer(writer, load_tokenizer(tokenizer_path))
    add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(output)


def add_model_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name(NAME)
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embedding_length)
    writer.add_block_count(config.block_count)
    writer.add_feed_forward_length(config.feed_forward_length)
    writer.add_head_count(config.head_count)
    writer.add_head_count_kv(config.head_count_kv)
    writer.add_layer_norm_rms_eps(config.rms_epsilon)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_freq_base)


def token_type(tokenizer: sentencepiece.SentencePieceProcessor, token: int) -> TokenType:
    if tokenizer.is_unknown(token):
        return TokenType.UNKNOWN
    if tokenizer.is_control(token):
        return TokenType.CONTROL
    return TokenType.BYTE if tokenizer.is_byte(token) else TokenType.NORMAL


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    tokens = range(tokenizer.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([tokenizer.id_to_piece(token).encode("utf-8") for token in tokens])
    writer.add_token_scores([tokenizer.get_score(token) for token in tokens])
    writer.add_token_types([token_type(tokenizer, token) for token in tokens])
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def add_tensors(writer: gguf.GGUFWriter, model: Llama) -> None:
    """The model's own parameter names are GGUF's; matrices become Q8_0, norms stay F32."""
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            quantized = quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantized, raw_dtype=GGMLQuantizationType.Q8_0)
