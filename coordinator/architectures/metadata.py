"""Typed access to the keys of one architecture in GGUF metadata, with errors that name the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tplaunch.coordinator.model.spec import ModelError

T = TypeVar("T")


class MetadataReader:
    """Keys are named without the architecture that they begin with: "attention.head_count".

    Those to ignore are as if the file did not have them.
    """

    def __init__(
        self, metadata: Mapping[str, Any], architecture: str, ignored: frozenset[str] = frozenset()
    ) -> None:
        skipped = {f"{architecture}.{key}" for key in ignored}
        self._metadata = {key: value for key, value in metadata.items() if key not in skipped}
        self._architecture = architecture

    def _get(self, key: str, default: Any) -> Any:
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the model's metadata has no {self._architecture}.{key}")
        return value

    def refuse(self, key: str, value: Any, wanted: str) -> ModelError:
        """The error for a value that can't be."""
        return ModelError(f"the model's {self._architecture}.{key} is {value!r:.60}; {wanted} is needed")

    def integer(self, key: str, default: int | None = None) -> int:
        """One number, also where the file has one for every layer and they agree."""
        value = self._get(key, default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        return self._integer(key, value, "one integer")

    def _integer(self, key: str, value: Any, wanted: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, value, wanted)
        return value

    def integers(self, key: str, count: int, default: int | None = None) -> list[int]:
        """One number for each of `count` layers; a file may have one for all, or further ones for blocks
        that are no layers.
        """
        return self._of_layers(key, count, default, lambda value: self._integer(key, value, "an integer"))

    def flags(self, key: str, count: int) -> list[bool]:
        """One truth for each of `count` layers, which a file writes as numbers or as booleans."""
        return self._of_layers(key, count, None, lambda value: bool(self._flag(key, value)))

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A truth."""
        return bool(self._flag(key, self._get(key, default)))

    def _flag(self, key: str, value: Any) -> int:
        return int(value) if isinstance(value, bool) else self._integer(key, value, "a truth value")

    def _of_layers(self, key: str, count: int, default: Any, convert: Callable[[Any], T]) -> list[T]:
        value = self._get(key, default)
        if not isinstance(value, list):
            return [convert(value)] * count
        if len(value) not in (count, self.integer("block_count", count)):
            raise self.refuse(key, f"of {len(value)} numbers", f"one for each of {count} layers")
        return [convert(item) for item in value[:count]]

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; a file may also write 0 where there is a default."""
        value = self._get(key, default)
        if default is not None and value in (0, default):
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.refuse(key, value, "a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, value, "a string")
        return value

    def is_list(self, key: str) -> bool:
        """Whether the file has a list there."""
        return isinstance(self._metadata.get(f"{self._architecture}.{key}"), list)

    def has(self, key: str) -> bool:
        """Whether the file says anything of it."""
        return f"{self._architecture}.{key}" in self._metadata
