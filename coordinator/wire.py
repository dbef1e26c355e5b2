"""Dataclasses to msgpack and back. What comes in is checked, field by field, against the annotations.

A message is a list of frames: first msgpack of its name and fields, then one for each large array of
float32, which is neither copied into the first nor out of it. A field with an empty array is left out: most
arrays of most messages are empty. Annotations are looked at once per type, not per message.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import numpy.typing as npt

Int32s = Annotated[npt.NDArray[np.int32], np.int32]  # one-dimensional; bytes within the first frame
Float64s = Annotated[npt.NDArray[np.float64], np.float64]  # the same
Float32s = Annotated[npt.NDArray[np.float32], np.float32]  # one-dimensional; many are a frame of their own

Frame: TypeAlias = bytes | memoryview
Decoder = Callable[[Any, Iterator[Frame]], Any]  # a plain value, the frames that no array has taken yet
# A file's name is bytes, of which those that are no UTF-8 are surrogates in a text.
UNICODE_ERRORS = "surrogatepass"
INLINE_BYTES = 4096  # of Float32s within the first frame: more are not copied
BUFFER_BYTES = 16384  # that packing starts with: msgpack's own choice is mapped anew for every message


class WireError(ValueError):
    """Bytes that came in are no message; the sentence says why."""


def pack(name: str, message: Any) -> list[Frame]:
    """A dataclass as frames. They share the memory of its large arrays."""
    arrays: list[Frame] = []

    def plain(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return _sent_fields(value)
        if value.dtype != np.float32 or value.nbytes <= INLINE_BYTES:
            return value.tobytes()
        arrays.append(np.ascontiguousarray(value).data)
        return None

    content = [name, plain(message)]
    packed: bytes = msgpack.packb(
        content, default=plain, buf_size=BUFFER_BYTES, unicode_errors=UNICODE_ERRORS
    )
    return [packed, *arrays]


def unpack(frames: Sequence[Frame], known: dict[str, type]) -> Any:
    """The message in the frames, of one of the `known` types; its large arrays share their memory.

    Raises WireError.
    """
    if not frames:
        raise WireError("no frames")
    try:
        content = msgpack.unpackb(frames[0], strict_map_key=True, unicode_errors=UNICODE_ERRORS)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack: {error}") from error
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], str):
        raise WireError("not a name with fields")
    if content[0] not in known:
        raise WireError(f"a message of the unknown type {content[0]!r:.40}")
    arrays = iter(frames[1:])
    message = _decoder(known[content[0]])(content[1], arrays)
    if next(arrays, None) is not None:
        raise WireError(f"{content[0]} with {len(frames) - 1} frames of arrays, more than it has")
    return message


def _sent_fields(message: Any) -> dict[str, Any]:
    """The fields of a dataclass, but for empty arrays."""
    arrays, others = _fields(message.__class__)
    found = {name: getattr(message, name) for name in others}
    for name in arrays:
        if (array := getattr(message, name)).size:
            found[name] = array
    return found


@functools.cache
def _fields(message_type: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the fields that are arrays, and of the others."""
    if not dataclasses.is_dataclass(message_type):
        raise TypeError(f"{message_type.__name__} can't be sent")
    names = [field.name for field in dataclasses.fields(message_type)]
    arrays = _empty_arrays(message_type)
    return tuple(arrays), tuple(name for name in names if name not in arrays)


@functools.cache
def _empty_arrays(message_type: type) -> dict[str, npt.NDArray[Any]]:
    """An empty array, not to be written to, for each field that is an array."""
    hints = get_type_hints(message_type, include_extras=True).items()
    return {
        name: np.frombuffer(b"", get_args(hint)[1]) for name, hint in hints if get_origin(hint) is Annotated
    }


@functools.cache
def _decoder(hint: Any) -> Decoder:
    """Returns the function that makes of a plain value what the annotation says, or raises WireError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _floats if arguments[1] is np.float32 else functools.partial(_array, arguments[1])
    if origin in (Union, types.UnionType):
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return functools.partial(_optional, _decoder(kind))
    if origin is tuple:
        return functools.partial(_tuple, _decoder(arguments[0]))
    if origin is dict:
        return functools.partial(_dict, _decoder(arguments[0]), _decoder(arguments[1]))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        decoders = {name: _decoder(kind) for name, kind in get_type_hints(hint, include_extras=True).items()}
        empty = _empty_arrays(hint)
        return functools.partial(_dataclass, hint, decoders, empty, decoders.keys() - empty.keys())
    return _float if hint is float else functools.partial(_scalar, hint)


def _dataclass(
    kind: type,
    decoders: dict[str, Decoder],
    empty: dict[str, npt.NDArray[Any]],
    required: set[str],
    value: Any,
    arrays: Iterator[Frame],
) -> Any:
    if type(value) is not dict or not required <= value.keys() <= decoders.keys():
        raise WireError(f"the fields of {kind.__name__} are {', '.join(decoders)}")
    try:
        return kind(**empty | {name: decoders[name](item, arrays) for name, item in value.items()})
    except (WireError, ValueError, AssertionError) as error:
        raise WireError(f"{kind.__name__}: {error}") from error


def _array(dtype: type[np.generic], value: Any, _arrays: Iterator[Frame]) -> npt.NDArray[Any]:
    _expect(value, bytes)
    return np.frombuffer(value, dtype)


def _floats(value: Any, arrays: Iterator[Frame]) -> npt.NDArray[np.float32]:
    if value is not None:
        return _array(np.float32, value, arrays)
    frame = next(arrays, None)
    if frame is None:
        raise WireError("the frame of an array is missing")
    return np.frombuffer(frame, np.float32)


def _optional(decode: Decoder, value: Any, arrays: Iterator[Frame]) -> Any:
    return None if value is None else decode(value, arrays)


def _tuple(decode: Decoder, value: Any, arrays: Iterator[Frame]) -> tuple[Any, ...]:
    _expect(value, list)
    return tuple(decode(item, arrays) for item in value)


def _dict(decode_key: Decoder, decode: Decoder, value: Any, arrays: Iterator[Frame]) -> dict[Any, Any]:
    _expect(value, dict)
    return {decode_key(key, arrays): decode(item, arrays) for key, item in value.items()}


def _float(value: Any, _arrays: Iterator[Frame]) -> float:
    if type(value) is int:
        return float(value)
    _expect(value, float)
    return value  # type: ignore[no-any-return]


def _scalar(kind: type, value: Any, _arrays: Iterator[Frame]) -> Any:
    _expect(value, kind)
    return value


def _expect(value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise WireError(f"{value!r:.40} is no {kind.__name__}")
