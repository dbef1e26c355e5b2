"""Typed access to the keys of one architecture in GGUF metadata, with errors that name the key.

Every value is checked as it is read: its type, that it is finite, its sign and its range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tplaunch.coordinator.model.checks import MAX_COUNT, MAX_NUMBER, ModelError

T = TypeVar("T")
LONG_LIST = 16  # items that are not shown
MIN_NUMBER = 1 / MAX_NUMBER  # so that what a file divides by is in range, too


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
        self._agreed: dict[str, Any] = {}  # lists that were walked: many layers ask for the same key

    def _get(self, key: str, default: Any) -> Any:
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the model's metadata has no {self._architecture}.{key}")
        return value

    def refuse(self, key: str, value: Any, wanted: str) -> ModelError:
        """The error for a value that can't be."""
        if isinstance(value, list) and len(value) > LONG_LIST:
            value = f"a list of {len(value)} items"
        return ModelError(f"the model's {self._architecture}.{key} is {value!r:.60}; {wanted} is needed")

    def integer(self, key: str, default: int | None = None, low: int = 0, high: int = MAX_COUNT) -> int:
        """One number from `low` to `high`, also where the file has one for every layer and they agree."""
        if default is not None and not self.has(key):
            return default
        value = self._get(key, None)
        if isinstance(value, list):
            if key not in self._agreed:
                self._agreed[key] = _agreed(value)
            value = self._agreed[key]
        return self._integer(key, value, "one integer", low, high)

    def _integer(self, key: str, value: Any, wanted: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, value, wanted)
        if not low <= value <= high:
            raise self.refuse(key, value, f"a number from {low} to {high}")
        return value

    def integers(
        self, key: str, count: int, default: int | None = None, low: int = 0, high: int = MAX_COUNT
    ) -> list[int]:
        """One number for each of `count` layers; a file may have one for all, or further ones for blocks
        that are no layers.
        """
        return self._of_layers(
            key, count, default, lambda value: self._integer(key, value, "an integer", low, high)
        )

    def exactly(self, key: str, count: int) -> list[int]:
        """So many numbers from 0 on; all are 0 where the file has none, and alike where it has one."""
        value = self._get(key, 0)
        numbers = value if isinstance(value, list) else [value] * count
        if len(numbers) != count:
            raise self.refuse(key, f"of {len(numbers)} numbers", f"a list of {count}")
        return [self._integer(key, number, "an integer", 0, MAX_COUNT) for number in numbers]

    def flags(self, key: str, count: int) -> list[bool]:
        """One truth for each of `count` layers, which a file writes as numbers or as booleans."""
        return self._of_layers(key, count, None, lambda value: self._flag(key, value))

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A truth."""
        return self._flag(key, self._get(key, default))

    def _flag(self, key: str, value: Any) -> bool:
        if not isinstance(value, int) or value not in (0, 1):
            raise self.refuse(key, value, "a truth value")
        return bool(value)

    def _of_layers(self, key: str, count: int, default: Any, convert: Callable[[Any], T]) -> list[T]:
        value = self._get(key, default)
        if not isinstance(value, list):
            return [convert(value)] * count
        if len(value) not in (count, self.integer("block_count", count)):
            raise self.refuse(key, f"of {len(value)} numbers", f"one for each of {count} layers")
        return [convert(item) for item in value[:count]]

    def number(
        self,
        key: str,
        default: float | None = None,
        low: float = MIN_NUMBER,
        high: float = MAX_NUMBER,
    ) -> float:
        """A positive number between `low` and `high`; a file may also write 0 where there is a default."""
        value = self._get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if default is not None and is_number and value in (0, default):
            return default
        if not is_number or not value > 0:
            raise self.refuse(key, value, "a positive number")
        if not low < value < high:
            raise self.refuse(key, value, f"a number between {low:g} and {high:g}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, value, "a string")
        return value

    def is_list(self, key: str) -> bool:
        """Tells whether the file has a list there."""
        return isinstance(self._metadata.get(f"{self._architecture}.{key}"), list)

    def has(self, key: str) -> bool:
        """Tells whether the file says anything of it."""
        return f"{self._architecture}.{key}" in self._metadata


def _agreed(values: list[Any]) -> Any:
    """The one value of a list whose items agree, or the list."""
    return values[0] if values and all(item == values[0] for item in values) else values
