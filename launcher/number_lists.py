"""Options whose values are lists of numbers, separated by commas."""

from __future__ import annotations

from typing import Final, Literal

from tplaunch.launcher.errors import UsageError

AUTO: Final = "auto"


def parse_split(text: str) -> tuple[float, ...] | Literal["auto"]:
    """The value of --tensor-split."""
    if text == AUTO:
        return AUTO
    return parse_numbers(text, "--tensor-split")


def parse_layers(text: str) -> tuple[int, ...]:
    """The value of --pipeline-split."""
    return parse_counts(text, "--pipeline-split")


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """A comma-separated list of numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: numbers separated by commas are needed, such as 3,1") from None


def parse_tokens(text: str) -> list[int]:
    """A comma-separated list of token ids."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--tokens {text:.40}: token ids separated by commas are needed, such as 1,403,407"
        ) from None


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """A comma-separated list of counts; none for an empty one."""
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text:.40}: counts separated by commas are needed, such as 1,2") from None
