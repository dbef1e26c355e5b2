"""Members that push constants of several kernels have alike, in the order of shaders/*.slang."""

from __future__ import annotations

from ctypes import c_uint32, c_uint64

Address = c_uint64
WEIGHTS = [  # where the parts of a matrix are: worker/formats/
    ("quants", Address),
    ("highs", Address),
    ("scales", Address),
    ("words", Address),
    ("codebook", Address),
]
CACHES = [
    ("key_cache", Address),
    ("key_scales", Address),
    ("value_cache", Address),
    ("value_scales", Address),
]
PAGING = [  # where these start in the step buffer; shaders/paging.slang
    ("positions", c_uint32),
    ("table_starts", c_uint32),
    ("tables", c_uint32),
    ("block_length", c_uint32),
]
