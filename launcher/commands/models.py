"""`tplaunch models`: which architectures and weight types run, from the tables that run them."""

from __future__ import annotations

import json

from tplaunch.coordinator.architectures.table import ARCHITECTURES, Architecture
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES, WeightType
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.launcher.lines import wrapped
from tplaunch.worker.formats import FORMATS

RECURRENT_NAMES = {"delta": "gated delta net", "scan": "Mamba-2", "convolution": "short convolutions"}
UNBROKEN = "\xa0"  # a space at which no line ends


def show_models(as_json: bool, as_markdown: bool) -> int:
    """Prints them."""
    if as_json:
        found = {
            "architectures": {name: features(row) for name, row in sorted(ARCHITECTURES.items())},
            "weight_types": {
                name: {"file_bits": _file_bits(kind), "device_bits": _device_bits(kind)}
                for name, kind in WEIGHT_TYPES.items()
            },
            "kv_types": list(KV_TYPES),
        }
        print(json.dumps(found, indent=2))
    elif as_markdown:
        print(models_markdown())
    else:
        width = max(map(len, ARCHITECTURES))
        for name, row in sorted(ARCHITECTURES.items()):
            print(wrapped(f"{name.ljust(width)}  {', '.join(features(row))}", " " * (width + 2)))
        print("\nweight types, with bits of a weight in the file and on a device:")
        types = [_type_text(kind).replace(" ", UNBROKEN) for kind in WEIGHT_TYPES.values()]
        print(wrapped(", ".join(types)).replace(UNBROKEN, " "))
        print(f"\nKV types: {', '.join(KV_TYPES)}")
    return 0


def features(row: Architecture) -> list[str]:
    """Lists an architecture's features that Llama lacks, in the field's terms; Llama's is "dense"."""
    attention, block = row.attention, row.block
    found = {
        "experts": row.experts is not None,
        RECURRENT_NAMES[row.recurrent.kind] if row.recurrent is not None else "": row.recurrent is not None,
        "latent attention": attention.latent,
        "windows": attention.full_period is not None and not attention.chunked,
        "chunked attention": attention.chunked,
        "no rope": not row.has_rope,
        "layers without rope": bool(attention.rope_period) or attention.full_without_rope,
        "alibi": bool(attention.alibi_bias),
        "sinks": attention.sinks,
        "gated attention": attention.gated,
        "softcaps": attention.softcap > 0,
        "query-key norm": attention.norm is not None,
        "layer norm": row.norm == "layer",
        "post-norms": bool(block.attention_post_norm),
        "parallel block": block.parallel or row.parallel_without_norm,
        row.activation: row.activation != "silu",
        "no gate": not row.gated and row.feeds_forward,
        "scaled residuals": row.divides_logits,
        "position embeddings": row.position_embeddings,
    }
    return [name for name, has in found.items() if has] or ["dense"]


def models_markdown() -> str:
    """The table of the README."""
    rows = [f"| `{name}` | {', '.join(features(row))} |" for name, row in sorted(ARCHITECTURES.items())]
    types = ", ".join(map(_type_text, WEIGHT_TYPES.values()))
    return "\n".join(
        (
            "| architecture | beyond a dense Llama |",
            "|---|---|",
            *rows,
            "",
            f"Weight types, with bits of a weight in the file and on a device: {types}.",
        )
    )


def _file_bits(kind: WeightType) -> float:
    return 8 * kind.block_bytes / kind.block_columns


def _device_bits(kind: WeightType) -> float:
    weight_format = FORMATS[kind.name]
    return 8 * sum(weight_format.plane_bytes) / weight_format.tile_columns


def _type_text(kind: WeightType) -> str:
    in_file, on_device = f"{_file_bits(kind):.4g}", f"{_device_bits(kind):.4g}"
    return f"{kind.name} ({in_file if in_file == on_device else f'{in_file}, {on_device}'})"
