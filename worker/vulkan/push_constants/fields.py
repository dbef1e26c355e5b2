"""Members that push constants of several kernels have alike, in the order of shaders/*.slang."""

from __future__ import annotations

from ctypes import Structure, c_uint32, c_uint64


class Address(c_uint64):
    """The address of numbers of 32 bits."""

    alignment = 4


class PairAddress(Address):
    """The address of what is loaded two numbers at once."""

    alignment = 8


class QuadAddress(Address):
    """The address of what is loaded four numbers at once."""

    alignment = 16


def misaligned(push: Structure) -> list[str]:
    """Names the addresses that break what a kernel promises the driver: shaders/alignment.py."""
    addresses = ((field[0], field[1]) for field in push._fields_ if issubclass(field[1], Address))
    return [name for name, kind in addresses if getattr(push, name).value % kind.alignment]


WEIGHTS = [  # where the parts of a matrix are: worker/formats/
    ("quants", QuadAddress),
    ("highs", QuadAddress),
    ("scales", Address),
    ("words", Address),
    ("codebook", Address),
]
CACHES = [
    ("key_cache", QuadAddress),
    ("key_scales", Address),
    ("value_cache", QuadAddress),
    ("value_scales", Address),
]
PAGING = [  # where these start in the step buffer; shaders/paging.slang
    ("positions", c_uint32),
    ("table_starts", c_uint32),
    ("tables", c_uint32),
    ("block_length", c_uint32),
]
