"""Dataclasses to msgpack and back. What comes in is checked, field by field, against the annotations."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import numpy.typing as npt

Int32s = Annotated[npt.NDArray[np.int32], np.int32]  # one-dimensional; bytes on the wire
Float32s = Annotated[npt.NDArray[np.float32], np.float32]


class WireError(ValueError):
    """What came in is no message; the sentence says why."""


def pack(name: str, message: Any) -> bytes:
    """A dataclass as msgpack: [name, fields]."""
    packed: bytes = msgpack.packb([name, _to_plain(message)])
    return packed


def unpack(data: bytes, known: dict[str, type]) -> Any:
    """The message in `data`, of one of the `known` types. Raises WireError."""
    try:
        content = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack: {error}") from error
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], str):
        raise WireError("not a name with fields")
    if content[0] not in known:
        raise WireError(f"a message of the unknown type {content[0]!r:.40}")
    return _to_dataclass(content[1], known[content[0]])


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, tuple | list):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return value


@functools.cache
def _hints(message_type: type) -> dict[str, Any]:
    return get_type_hints(message_type, include_extras=True)


def _to_dataclass(value: Any, message_type: type) -> Any:
    hints = _hints(message_type)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise WireError(f"the fields of {message_type.__name__} are {', '.join(hints)}")
    try:
        return message_type(**{name: _checked(value[name], hint) for name, hint in hints.items()})
    except (WireError, ValueError, AssertionError) as error:
        raise WireError(f"{message_type.__name__}: {error}") from error


def _checked(value: Any, hint: Any) -> Any:
    """`value` as the annotation wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _array(value, arguments[1])
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _checked(value, next(argument for argument in arguments if argument is not type(None)))
    if origin is tuple:
        _expect(value, list)
        return tuple(_checked(item, arguments[0]) for item in value)
    if origin is dict:
        _expect(value, dict)
        return {_checked(key, arguments[0]): _checked(item, arguments[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _to_dataclass(value, hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(value, hint)
    return value


def _expect(value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise WireError(f"{value!r:.40} is no {kind.__name__}")


def _array(value: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    _expect(value, bytes)
    return np.frombuffer(value, dtype)
