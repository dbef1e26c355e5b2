"""Names the types of token; knows nothing else."""

from __future__ import annotations

from enum import IntEnum


class TokenType(IntEnum):
    """The values of tokenizer.ggml.token_type, as ggml-org/llama.cpp's include/llama.h numbers them."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6
