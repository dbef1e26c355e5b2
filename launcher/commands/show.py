"""The commands that show instead of generate: devices, plan, logits."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec
from tplaunch.coordinator.serving.prompt_check import check_prompt
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.plan import RankShare, Span
from tplaunch.launcher.commands.explain import explained_numbers, explained_text
from tplaunch.launcher.commands.kv_text import kept_numbers, kept_text
from tplaunch.launcher.commands.show_processors import print_processors, processor_numbers
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.device_choice import left_out
from tplaunch.launcher.devices import list_devices, planned_devices
from tplaunch.launcher.fitting.arrange import arrange, largest_context_text
from tplaunch.launcher.fitting.experts_apart import experts_text
from tplaunch.launcher.fitting.fit import RankBytes, mebibytes
from tplaunch.launcher.hosts.opening import open_hosts
from tplaunch.launcher.lines import say, shown, wrapped
from tplaunch.launcher.model import open_model
from tplaunch.launcher.near_cores import core_text, nearby
from tplaunch.launcher.output_path import check_output_path, writing
from tplaunch.launcher.processors import CPUS
from tplaunch.launcher.session import start_session
from tplaunch.launcher.table import format_table
from tplaunch.worker.cpu.usable import unusable
from tplaunch.worker.measuring.measurements import cache_folder

FEATURES = {
    "external_host_memory": "external host memory",
    "dma_buf_import": "dma-bufs",
    "integer_dot_product": "integer dot product",
    "float16": "float16",
    "cooperative_matrix": "cooperative matrix",
}


def show_devices(as_json: bool) -> int:
    """`tplaunch devices`: all Vulkan devices and processors, with what matters for a model on them."""
    listed, cache = list_devices(), cache_folder()
    reasons = left_out(listed.devices)
    if as_json:
        devices = [
            {
                **device,
                **_near_numbers(device),
                "in_all": not reasons[device["index"]],
                "left_out": reasons[device["index"]] or None,
            }
            for device in listed.devices
        ]
        found = {"devices": devices, "error": listed.error or None, "cache": cache and str(cache)}
        found |= {"processors": processor_numbers(), "without_kernels": unusable() or None}
        print(json.dumps({**found, "closed": listed.closed}, indent=2))
        return 0
    for device in listed.devices:
        _print_device(device, reasons[device["index"]])
    print_processors()
    taken = [str(index) for index, reason in reasons.items() if not reason] or [CPUS]
    print(wrapped(f"`--devices all`, which is what runs without --devices, takes {', '.join(taken)}."))
    if cache is not None:
        print(wrapped(f"What is measured on a device is kept in {cache}; `tplaunch tune` does it anew."))
    if not listed.devices:
        say(f"no Vulkan device: {listed.reason}")
    elif listed.closed or listed.missing:
        say("; ".join(filter(None, (*listed.closed, listed.missing))))
    return 0


def _print_device(device: dict[str, Any], left_out: str) -> None:
    present = [label for key, label in FEATURES.items() if device[key]]
    if device["integer_dot_product"] and not device["integer_dot_accelerated"]:
        dots = FEATURES["integer_dot_product"]
        present[present.index(dots)] = f"{dots} (not accelerated, says its driver)"
    print(wrapped(f"{device['index']}  {device['name']}", "   "))
    rows = {
        "type": f"{device['type']}, driver {device['driver']}",
        "memory": _memory(device),
        "features": ", ".join(present) or "none of " + ", ".join(FEATURES.values()),
        "subgroups": _subgroups(device),
        "queue": "draws nothing" if device["compute_queue"] else "draws, too: it has no other that computes",
        "cores": _near_text(device),
        "unusable": device["unusable"],
        "all": left_out and not device["unusable"] and f"leaves it out: {left_out}",
    }
    for title, text in rows.items():
        if text:
            print(wrapped(f"   {title:<11} {text}", " " * 15))


def _near_text(device: dict[str, Any]) -> str:
    """Says which cores are near a card; nothing where that is not known."""
    near = nearby(device["pci_address"])
    node = "" if near.node is None else f", of memory node {near.node}"
    return f"{core_text(sorted(near.cores))} are near it{node}" if near.cores else ""


def _near_numbers(device: dict[str, Any]) -> dict[str, Any]:
    near = nearby(device["pci_address"])
    return {"near_cores": sorted(near.cores), "numa_node": near.node}


def _memory(device: dict[str, Any]) -> str:
    total, available = device["memory_bytes"], device["available_bytes"]
    return mebibytes(total) + (f", of which {mebibytes(available)} are free" if available < total else "")


def _subgroups(device: dict[str, Any]) -> str:
    smallest, largest = device["min_subgroup_size"], device["max_subgroup_size"]
    return f"of {smallest}" if smallest == largest else f"of {smallest} to {largest}"


def show_plan(config: RunConfig, as_json: bool, explains: bool = False) -> int:
    """`tplaunch plan`: who would hold what, from the file's metadata; no device is opened, unless by auto."""
    model = open_model(config, needs_devices=False)
    choices, reason = planned_devices(config.devices, pins=not config.no_pin)
    arrangement = arrange(config, model, choices)
    rows = list(zip(arrangement.plan, arrangement.bytes, strict=True))
    spec, limits, sizes = model.spec, arrangement.limits, arrangement.sizes
    fault = model.tokenizer_fault()
    if fault is not None:
        say(f"`tplaunch run` will take no text: {fault}")
    if as_json:
        found = {
            "context": limits.context_length,
            "largest_context": sizes.largest_context,
            "limited_by": sizes.limited_by,
            "prefill_chunk": limits.max_rows,
            **kept_numbers(spec, arrangement),
            "split": arrangement.split,
            "tokenizer_error": fault,
            "ranks": [_plan_row(share, num_bytes) for share, num_bytes in rows],
            **(explained_numbers(model, arrangement, config.wire) if explains else {}),
        }
        print(json.dumps(found, indent=2))
        return 0
    numbers = map(_of_layers, zip(*map(_layer_numbers, spec.layers), strict=True))
    counts = [
        f"{number} {title}" for number, title in zip(numbers, TITLES.values(), strict=True) if number != "0"
    ]
    model_text = (
        f"{shown(config.model.name)}: {spec.architecture}, {spec.num_layers} layers, {', '.join(counts)},"
        f"{_experts_text(spec)}"
        f" {spec.vocabulary_size} tokens; context {limits.context_length}, KV {config.kv_type},"
        f" steps of up to {limits.max_rows} rows"
    )
    print(wrapped(model_text))
    _print_table(rows)
    if config.expert_split == EXPERTS_APART:
        print(wrapped(experts_text(arrangement.choices)))
    for sentence in kept_text(spec, arrangement):
        print(wrapped(sentence))
    if arrangement.split is not None:
        print(wrapped(arrangement.split))
    print(wrapped(largest_context_text(model, arrangement, reason)))
    if explains:
        print(explained_text(model, arrangement, config.wire))
    return 0


TITLES = {  # of what a layer has of each kind; the heads of a short convolution are its channels
    "heads": "heads",
    "kv_heads": "KV heads",
    "ffn_columns": "FFN columns",
    "recurrent_heads": "recurrent heads",
}


def _layer_numbers(layer: LayerSpec) -> tuple[int, int, int, int]:
    """Returns the numbers of a layer in the order of TITLES; 0 for a part that it lacks."""
    attention, feed_forward, recurrent = layer.attention, layer.feed_forward, layer.recurrent
    heads = (0, 0) if attention is None else (attention.num_heads, attention.num_kv_heads)
    columns = 0 if feed_forward is None else feed_forward.length
    return *heads, columns, 0 if recurrent is None else recurrent.num_heads


def _experts_text(spec: ModelSpec) -> str:
    if not spec.experts:
        return ""
    numbers = ([experts.used, experts.count, experts.length] for experts in spec.experts)
    used, count, length = map(_of_layers, zip(*numbers, strict=True))
    return f" {used} of {count} experts of {length} columns,"


def _of_layers(numbers: Sequence[int]) -> str:
    """One number where all layers agree, else from the least to the most."""
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


KINDS = {**TITLES, "experts": "experts", "expert_columns": "expert columns"}  # that ranks have spans of


def _layer_spans(share: RankShare) -> dict[str, list[Span]]:
    """Returns the spans that a rank holds of each layer, by kind."""
    return {
        "heads": [layer.heads for layer in share.layers],
        "kv_heads": [layer.kv_heads for layer in share.layers],
        "ffn_columns": [layer.feed_forward for layer in share.layers],
        "recurrent_heads": [layer.recurrent for layer in share.layers],
        "experts": [layer.experts for layer in share.layers],
        "expert_columns": [layer.expert_columns for layer in share.layers],
    }


def _plan_row(share: RankShare, num_bytes: RankBytes) -> dict[str, Any]:
    return {
        "rank": share.rank,
        "layers": [share.stage_layers.start, share.stage_layers.stop],
        **{name: [[span.start, span.stop] for span in spans] for name, spans in _layer_spans(share).items()},
        "vocabulary_rows": [share.vocabulary.start, share.vocabulary.stop],
        "weight_bytes": num_bytes.weights,
        "cache_bytes": num_bytes.cache,
        "state_bytes": num_bytes.states,
        "activation_bytes": num_bytes.work + num_bytes.partials,
        "work_bytes": num_bytes.work,
        "copy_bytes": num_bytes.copies,
        "own_sum_bytes": num_bytes.moved,
        "total_bytes": num_bytes.total,
    }


def _print_table(rows: Sequence[tuple[RankShare, RankBytes]]) -> None:
    held = [_layer_spans(share) for share, _ in rows]
    kinds = [kind for kind in KINDS if any(len(span) for spans in held for span in spans[kind])]
    staged = len({share.first_layer for share, _ in rows}) > 1
    places = ("rank", *(("layers",) if staged else ()), *(KINDS[kind] for kind in kinds), "vocabulary rows")
    memory = {
        "weights": "weights",
        "cache": "KV cache",
        "states": "states",
        "work": "work",
        "partials": "sums",
    }
    memory |= {"moved": "own sums", "copies": "float32 copies", "total": "total"}
    for kind in ("states", "moved", "copies"):
        if not any(getattr(num_bytes, kind) for _, num_bytes in rows):
            del memory[kind]
    cells = [
        (
            str(share.rank),
            *((str(share.stage_layers),) if staged else ()),
            *(" or ".join(dict.fromkeys(map(str, spans[kind]))) for kind in kinds),
            str(share.vocabulary),
            *(mebibytes(getattr(num_bytes, kind)) for kind in memory),
        )
        for (share, num_bytes), spans in zip(rows, held, strict=True)
    ]
    print(format_table((*places, *memory.values()), cells))


def write_logits(config: RunConfig, tokens: list[int], out: Path) -> int:
    """`tplaunch logits`: float32 logits of every position: arrays "tokens" and "logits" in an .npz file."""
    check_output_path("--out", out)
    model = open_model(config)
    with open_hosts(config, model) as hosts:
        arrangement = arrange(config, model, hosts.choices, hosts.measure)
        check_prompt(tokens, model.spec, arrangement.limits.context_length, continues=False)
        with start_session(config, model, arrangement, hosts=hosts) as session:
            logits = all_logits(session.engine, tokens)
    # Not by np.savez: where the disk is full, Python 3.10 prints a traceback once the archive is forgotten.
    with writing("--out", out), out.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in {"tokens": np.array(tokens, np.int32), "logits": logits}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.save(entry, array, allow_pickle=False)
    return 0
