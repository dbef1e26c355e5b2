"""The options of every command: their names, defaults and help. What they mean is launcher/cli.py's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tplaunch.coordinator.options import declared_options
from tplaunch.coordinator.server.settings import ServerSettings
from tplaunch.launcher.chat_options import add_chat_options
from tplaunch.launcher.commands.join import JoinConfig
from tplaunch.launcher.completion import SHELLS, PrintCompletion
from tplaunch.launcher.declared import add_declared
from tplaunch.launcher.errors import EXIT_USAGE
from tplaunch.launcher.evaluation_options import add_evaluation_commands
from tplaunch.launcher.hosts.placing import COMMANDS, PLACED, add_place_options
from tplaunch.launcher.lines import say
from tplaunch.launcher.measuring_options import add_bench, add_ledger, add_measuring_commands, add_shape
from tplaunch.launcher.model_options import add_model_options
from tplaunch.launcher.prediction_options import add_prediction_options
from tplaunch.launcher.ray_nodes.options import add_ray_options
from tplaunch.launcher.sampling_options import add_sampling_options
from tplaunch.launcher.serving_options import add_serving_options

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error, instead of printing the usage before it."""

    commands: Mapping[str, Parser]  # of the parser of all commands: each one's own

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see {self.prog} --help")
        self.exit(EXIT_USAGE)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Prints the help; argparse's own drops what can't be written, and then ends with 0."""
        (sys.stderr if file is None else file).write(message)

    @property
    def known_options(self) -> Mapping[str, argparse.Action]:
        """Gives the options by the ways to write them."""
        return self._option_string_actions

    def takes_value(self, word: str) -> bool:
        """Tells whether this is an option to which the next word belongs."""
        action = self.known_options.get(word)
        return action is not None and action.nargs is None


def make_parser() -> Parser:
    """Returns the parser of all commands."""
    parser = Parser(
        prog="tplaunch",
        description="Tensor-parallel inference of GGUF models on Vulkan devices, one process per device.",
        epilog="Without a command, tplaunch runs the model:"
        " tplaunch --devices 0,1 model.gguf 'Once upon a time'. Each command has its own --help: `tplaunch"
        " run --help` lists the options of running a model. `tplaunch --demo` runs a model that comes along.",
    )
    parser.add_argument("--version", action="version", version=f"tplaunch {metadata.version('tplaunch')}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print a shell's completion script"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_run(commands.add_parser("run", help="chat, answer, or continue a text (the default)"))
    _add_serve(
        commands.add_parser("serve", help="answer programs over HTTP, by OpenAI's and Anthropic's API")
    )
    _add_shown(commands)
    _add_logits(commands.add_parser("logits", help="write the logits of every position to an .npz file"))
    add_bench(commands.add_parser("bench", help="measure prefill and decode"))
    add_evaluation_commands(commands)
    _add_hosts(commands)
    add_measuring_commands(commands)
    for name in PLACED:
        add_place_options(commands.choices[name])
    for name in COMMANDS:
        add_ray_options(commands.choices[name])
    parser.commands = commands.choices
    return parser


def _add_shown(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands that show something, and start nothing."""
    devices = commands.add_parser("devices", help="list the Vulkan devices")
    devices.add_argument("--json", action="store_true", help="as JSON")
    models = commands.add_parser("models", help="list the architectures and weight types that run")
    form = models.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as the README has it")
    _add_plan(
        commands.add_parser(
            "plan",
            help="show who would hold what, or how fast several hosts would be",
            description="Shows who would hold what, without opening a device. With --speed, with --hosts, and"
            " for hosts that are not here (--link, --host-devices), it says how fast the ways to run the"
            " model are: from what devices and links are measured at, or from devices that are described.",
        )
    )


def _add_hosts(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands by which other hosts take part in a run."""
    keygen = commands.add_parser(
        "keygen",
        help="make the key file by which hosts of a run know each other",
        description="Makes the key file by which the hosts of a run know each other: once, on one of them."
        " Copy it to the same place on the others, as by scp -p; who has it can join.",
    )
    keygen.add_argument(
        "file", nargs="?", type=Path, metavar="FILE",
        help="where to write it (default: ~/.config/tplaunch/hosts.key)",
    )  # fmt: skip
    join = commands.add_parser(
        "join",
        help="lend this machine's devices to a run on another one",
        description="Lends this machine's devices to a run on another one, the head, until that ends. The"
        " head is any command with --hosts, as tplaunch serve --hosts 2 model.gguf, and prints the command"
        " that joins it. What this machine lacks of the model is fetched from there.",
    )
    join.add_argument(
        "head", metavar="HEAD[:PORT]", help="the address that the head prints when it waits for hosts"
    )
    add_declared(join, JoinConfig, declared_options(JoinConfig))


def _add_run(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_argument_group(
        "prompt (without one: a chat or prompt loop on a terminal, else standard input)"
    )
    prompt.add_argument(
        "-p", "--prompt", metavar="TEXT", help="a message, or the text to continue; - for standard input"
    )
    prompt.add_argument("-f", "--file", type=Path, metavar="FILE", help="the same, from a file")
    prompt.add_argument("--tokens", metavar="IDS", help="the prompt as token ids, such as 1,403,407")
    prompt.add_argument(
        "--parse-special",
        action="store_true",
        help="make tokens of words such as <|im_end|> that a text to continue holds (default: they stay"
        " text); no chat template is put around it then",
    )
    add_chat_options(parser.add_argument_group("chat (where the model has a chat template)"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help="tokens at most (default: the context)"
    )
    output.add_argument("--ignore-eos", action="store_true", help="go on past the end token")
    output.add_argument(
        "--json", action="store_true", help="one JSON object: tokens, text, finish reason, timings"
    )
    add_ledger(output)
    add_sampling_options(parser)
    add_model_options(parser)
    parser.add_argument("text", nargs="?", metavar="PROMPT", help="the same as -p PROMPT")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    declared = declared_options(ServerSettings)
    for title in dict.fromkeys(option.group for option in declared.values()):
        names = [name for name, option in declared.items() if option.group == title]
        add_declared(parser.add_argument_group(title), ServerSettings, names)
    add_serving_options(parser)


def _add_logits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens", required=True, metavar="IDS", help="the prompt as token ids, such as 5,9,2"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file with arrays tokens and logits"
    )
    add_model_options(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--explain", action="store_true", help="count what a token asks of each device and of its links"
    )
    add_shape(parser, "model (a file or a shape)")
    add_prediction_options(parser.add_argument_group("prediction"))
    add_model_options(parser)
