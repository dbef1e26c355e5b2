"""Writes a model in several files, as gguf-split would."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.models import SPEC, write_llama
from tplaunch.coordinator.gguf.header import read_gguf
from tplaunch.launcher.write_gguf import add_metadata

TYPES = {"attn_q.weight": "Q8_0", "ffn_down.weight": "Q4_0", "token_embd.weight": "F16"}


def part_path(folder: Path, number: int, count: int, prefix: str = "m") -> Path:
    return folder / f"{prefix}-{number:05}-of-{count:05}.gguf"


def write_part(
    path: Path, whole: Path, names: list[str], keys: Mapping[str, Any], metadata: bool = False
) -> None:
    """Some tensors of a file, as gguf-split would write them."""
    file, data = read_gguf(whole), whole.read_bytes()
    writer = gguf.GGUFWriter(path, "llama")
    if metadata:
        add_metadata(writer, SPEC)
    for key, value in keys.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name in names:
        info = file.tensors[name]
        kind = gguf.GGMLQuantizationType[info.type]
        dtype = {"F32": np.float32, "F16": np.float16}.get(info.type, np.uint8)
        values = np.frombuffer(data, dtype, info.nbytes // np.dtype(dtype).itemsize, info.offset)
        writer.add_tensor(name, values.reshape(*info.shape[:-1], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Split:
    """A whole model in one file, and the same in parts."""

    def __init__(self, folder: Path, count: int, first: int = 1) -> None:
        """first: tensors of the first part; the others share the rest."""
        self.folder, self.count, self.whole = folder, count, folder / "whole.gguf"
        write_llama(self.whole, SPEC, TYPES)
        self.names = list(read_gguf(self.whole).tensors)
        others = self.names[first:]
        cuts = [len(others) * part // (count - 1) for part in range(count)]
        parts = [others[start:stop] for start, stop in itertools.pairwise(cuts)]
        for number, names in enumerate([self.names[:first], *parts]):
            self.write(number, names)

    def path(self, number: int) -> Path:
        return part_path(self.folder, number + 1, self.count)

    def write(self, number: int, names: list[str], /, **keys: Any) -> None:
        plain = {"no": number, "count": self.count, "tensors.count": len(self.names)}
        split = {f"split.{key}": value for key, value in {**plain, **keys}.items() if value is not None}
        write_part(self.path(number), self.whole, names, split, metadata=number == 0)

    def held(self, number: int) -> list[str]:
        return list(read_gguf(self.path(number)).tensors)
