"""Writes the script by which a shell completes commands, options and values, without starting tplaunch.

Leaves the script to shtab; argcomplete would start this program at every press of the key, for half a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
FILES = {"FILE", "MODEL.gguf"}  # what values are called that name files


class PrintCompletion(argparse.Action):
    """Prints the script for a shell and ends, as --version does."""

    def __call__(
        self, parser: argparse.ArgumentParser, _options: object, shell: Any, _name: Any = None
    ) -> None:
        print(completion_script(parser, shell))
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell, one of SHELLS. parser: of all commands.

    The options of `run` are completed without its name, too.
    """
    import shtab

    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for option in _options(commands.choices["run"]):
        if option.dest != "help":
            parser._add_action(option)
    for each in (parser, *commands.choices.values()):
        for action in each._actions:
            if action.metavar in FILES:
                vars(action)["complete"] = shtab.FILE
    return str(shtab.complete(parser, shell))


def _options(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]
