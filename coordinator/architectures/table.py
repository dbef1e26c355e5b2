"""The architectures that are supported, each a row of features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tplaunch.coordinator.architectures.attention import AttentionFeatures
from tplaunch.coordinator.architectures.experts import ExpertFeatures
from tplaunch.coordinator.architectures.recurrent import RecurrentFeatures
from tplaunch.coordinator.model.attention import QueryKeyNorm, Temperature
from tplaunch.coordinator.model.spec import BlockSpec


@dataclass(frozen=True)
class Architecture:
    """The features in which an architecture differs from others: one row of the table below."""

    interleaved_rope: bool = False
    sections_take_turns: bool = False  # the rope's sections, by which pictures rotate
    has_rope: bool = True
    layers_with_rope: int | None = None  # only a model of so many layers has it
    norm: str = "rms"
    activation: str = "silu"
    gated: bool = True
    attention: AttentionFeatures = field(default_factory=AttentionFeatures)
    recurrent: RecurrentFeatures | None = None  # of layers that do not attend
    feeds_forward: bool = True
    output_norm: str = "output_norm"
    block: BlockSpec = field(default_factory=BlockSpec)
    experts: ExpertFeatures | None = None  # where it can have any
    widened_embeddings: bool = False  # times the square root of their length
    embedding_norm: str = ""
    position_embeddings: bool = False
    parallel_without_norm: bool = False  # of the feed-forward part, which some of its models lack
    divides_logits: bool = False  # by the logit scale, which others multiply by
    logit_softcap: float = 0.0  # where the file says nothing
    unused_tensors: tuple[str, ...] = ()  # which generating text does not need
    unused_in_layers: tuple[str, ...] = ()  # which llama.cpp reads and leaves out, too


CLASSIFIER = ("cls.output.weight",)  # of a model that ranks texts
SANDWICHED = BlockSpec(attention_post_norm="post_attention_norm", feed_forward_post_norm="post_ffw_norm")
POST_NORMED = replace(SANDWICHED, attention_norm="", feed_forward_norm="")
POST_ATTENTION = BlockSpec(feed_forward_norm="post_attention_norm")
PARALLEL = BlockSpec(parallel=True, feed_forward_norm="")  # one norm for both parts
NORMALISED = ExpertFeatures(normalised=True)
WITH_ROW_GATE = ExpertFeatures(row_gate="ffn_gate_inp_shexp.weight")
NORMED = AttentionFeatures(norm=QueryKeyNorm())
ROW_NORMED = AttentionFeatures(norm=QueryKeyNorm(span="row"))
OPTIONAL_NORM = AttentionFeatures(norm=QueryKeyNorm("layer", "heads"), norm_is_optional=True)
QWEN35 = Architecture(
    sections_take_turns=True,
    attention=replace(NORMED, gated=True),
    recurrent=RecurrentFeatures("delta", tiled=True),
    block=POST_ATTENTION,
)
QWEN35_MOE = replace(QWEN35, experts=replace(WITH_ROW_GATE, normalised=True))
GLM_FLASH = ((47, 154880, "sigmoid"), (48, 154880, "sigmoid"))  # GLM-4.7-Flash
LATENT = Architecture(
    interleaved_rope=True,
    attention=AttentionFeatures(latent=True, tempered_with_rope=True),
    experts=ExpertFeatures(gatings=GLM_FLASH),
)
GRANITE = Architecture(interleaved_rope=True, divides_logits=True, experts=NORMALISED)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rope=True, experts=NORMALISED),
    "mistral3": Architecture(
        interleaved_rope=True, attention=AttentionFeatures(tempered_with_rope=True), experts=NORMALISED
    ),
    "baichuan": Architecture(
        interleaved_rope=True,
        layers_with_rope=32,
        attention=AttentionFeatures(alibi_bias=8.0, alibi_layers=40),
    ),
    "internlm2": Architecture(interleaved_rope=True),
    "smollm3": Architecture(interleaved_rope=True, attention=AttentionFeatures(rope_period=4)),
    "granite": GRANITE,
    "chatglm": Architecture(interleaved_rope=True),
    "glm4": Architecture(interleaved_rope=True, block=SANDWICHED),
    "deepseek2": replace(LATENT, attention=replace(LATENT.attention, plain_latent_rope=True)),
    "mistral4": LATENT,
    "llama4": Architecture(
        interleaved_rope=True,
        attention=AttentionFeatures(
            full_period=4,
            window=8192,
            chunked=True,
            rope_period=4,
            norm=QueryKeyNorm(weighted=False, after_rope=True),
            norm_experts=128,
            temperature=Temperature(8192, 0.1, 1.0),
        ),
        experts=ExpertFeatures(gating="sigmoid", normalised=False, weighs_input=True),
    ),
    "gpt-oss": Architecture(
        block=POST_ATTENTION,
        attention=AttentionFeatures(full_period=2, sinks=True),
        experts=ExpertFeatures(gating="softmax_chosen", normalised=False, activation="swiglu_oai"),
    ),
    "qwen2": Architecture(),
    "qwen3": Architecture(attention=NORMED, unused_tensors=CLASSIFIER),
    "qwen35": QWEN35,
    "qwen35moe": QWEN35_MOE,
    "qwen3next": replace(QWEN35_MOE, sections_take_turns=False, recurrent=RecurrentFeatures("delta")),
    "seed_oss": Architecture(block=POST_ATTENTION),
    "lfm2": Architecture(
        attention=replace(NORMED, full_period=0),
        recurrent=RecurrentFeatures("convolution"),
        output_norm="token_embd_norm",
        unused_tensors=("dense_2.weight", "dense_2.bias"),  # behind the embeddings of texts
    ),
    "mamba2": Architecture(
        has_rope=False,
        recurrent=RecurrentFeatures("scan"),
        feeds_forward=False,
        block=BlockSpec(feed_forward_norm=""),
    ),
    "exaone4": Architecture(
        block=POST_NORMED,
        attention=replace(NORMED, full_period=4, window=4096, window_layers=64, full_without_rope=True),
    ),
    "hunyuan-dense": Architecture(attention=AttentionFeatures(norm=QueryKeyNorm(after_rope=True))),
    "gemma": Architecture(activation="gelu", widened_embeddings=True),
    "gemma2": Architecture(
        activation="gelu",
        widened_embeddings=True,
        block=SANDWICHED,
        logit_softcap=30.0,
        attention=AttentionFeatures(full_period=2, window=4096, softcap=50.0, width_scale_layers=46),
    ),
    "gemma3": Architecture(
        activation="gelu",
        widened_embeddings=True,
        block=SANDWICHED,
        attention=replace(
            NORMED, full_period=6, window_rope_base=10000.0, plain_window_rope=True, width_scale_layers=62
        ),
    ),
    "olmo2": Architecture(
        block=POST_NORMED,
        attention=replace(ROW_NORMED, full_period=4, plain_window_rope=True, plain_window_magnitude=1.0),
    ),
    "phi2": Architecture(norm="layer", activation="gelu", gated=False, block=PARALLEL),
    "phi3": Architecture(),
    "command-r": Architecture(interleaved_rope=True, norm="layer", block=PARALLEL, attention=OPTIONAL_NORM),
    "cohere2": Architecture(
        interleaved_rope=True,
        norm="layer",
        block=PARALLEL,
        attention=AttentionFeatures(full_period=4, full_without_rope=True),
    ),
    "starcoder2": Architecture(norm="layer", activation="gelu", gated=False),
    "stablelm": Architecture(norm="layer", parallel_without_norm=True, attention=OPTIONAL_NORM),
    "nemotron": Architecture(norm="layer", activation="relu2", gated=False),
    "falcon": Architecture(norm="layer", activation="gelu", gated=False, block=PARALLEL),
    "gptneox": Architecture(norm="layer", activation="gelu", gated=False),
    "gpt2": Architecture(
        has_rope=False,
        norm="layer",
        activation="gelu",
        gated=False,
        position_embeddings=True,
    ),
    "bloom": Architecture(
        has_rope=False,
        norm="layer",
        activation="gelu",
        gated=False,
        embedding_norm="token_embd_norm",
        attention=AttentionFeatures(alibi_bias=8.0),
    ),
    "mpt": Architecture(
        has_rope=False,
        norm="layer",
        activation="gelu",
        gated=False,
        attention=AttentionFeatures(
            norm=QueryKeyNorm("layer", "row"), norm_is_optional=True, norm_follows_queries=True
        ),
    ),
    "qwen2moe": Architecture(experts=WITH_ROW_GATE),
    "qwen3moe": Architecture(attention=NORMED, experts=NORMALISED),
    "olmoe": Architecture(attention=ROW_NORMED, experts=ExpertFeatures(normalised=False)),
    "granitemoe": GRANITE,
    "phimoe": Architecture(experts=NORMALISED),
    "hunyuan-moe": Architecture(
        attention=AttentionFeatures(norm=QueryKeyNorm(after_rope=True)), experts=NORMALISED
    ),
    "minimax-m2": Architecture(
        attention=ROW_NORMED, experts=ExpertFeatures(gating="sigmoid", normalised=True)
    ),
    "dots1": Architecture(attention=NORMED, experts=ExpertFeatures()),
    "glm4moe": Architecture(
        block=POST_ATTENTION,
        attention=replace(NORMED, norm_is_optional=True),  # GLM-4.5-Air has none
        experts=ExpertFeatures(gating="sigmoid"),
    ),
    "bailingmoe2": Architecture(attention=NORMED, experts=ExpertFeatures(gating="sigmoid")),
    "ernie4_5-moe": Architecture(
        interleaved_rope=True, experts=NORMALISED, unused_in_layers=("attn_output.bias",)
    ),
}
