"""Makes options of the command line from the dataclasses that declare them, and reads their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from tplaunch.coordinator.options import Option, declared_options

# What argparse takes options for: a parser, or a group of its options.
Options = argparse.ArgumentParser | argparse._ArgumentGroup


def add_declared(parser: Options, kind: type, names: Iterable[str]) -> None:
    """Adds the options that these fields of the dataclass declare."""
    declared = declared_options(kind)
    for name in names:
        _add(parser, declared[name], _default(kind, name, declared[name]))


def _default(kind: type, name: str, declared: Option) -> Any:
    """The value that argparse has for an option that is not given."""
    if declared.is_repeated:
        return []
    return declared.default_text if declared.read is not None else getattr(kind, name)


def _add(parser: Options, declared: Option, default: Any) -> None:
    if declared.opposite is not None:
        flag, text = declared.opposite
        either = parser.add_mutually_exclusive_group()
        either.add_argument(*declared.flags, action="store_true", default=None, help=declared.help)
        either.add_argument(flag, dest=declared.name, action="store_false", help=text)
    elif default is False:
        parser.add_argument(*declared.flags, action="store_true", help=declared.help)
    else:
        parser.add_argument(
            *declared.flags,
            dest=declared.name,
            default=default,
            metavar=declared.metavar,
            help=declared.help,
            choices=declared.choices,
            type=declared.number or str,
            action="append" if declared.is_repeated else "store",
        )


def declared_values(kind: type, options: argparse.Namespace) -> Mapping[str, Any]:
    """Returns the value of each field whose option was added and has one; raises what reading raises."""
    values: dict[str, Any] = {}
    for name, declared in declared_options(kind).items():
        value = getattr(options, declared.name, None)
        if value is not None:
            values[name] = value if declared.read is None else declared.read(value)
    return values
