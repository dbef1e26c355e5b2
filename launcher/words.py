"""Turns the words of a command line into options: those that people write, and those they may have meant.

Knows no file and no device; launcher/model_path.py has what may be wrong with a model's name.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tplaunch
from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hub.files import parse_hub_model
from tplaunch.launcher.options import Parser, make_parser

DEMO_MODEL = Path(tplaunch.__file__).parent / "demo-stories.gguf"
DEMO_PROMPT = "Once upon a time"
STANDARD_INPUT_FILE = Path("/dev/stdin")
# How alike (0 to 1) a word is to the command that it may mean; more so where it may as well be a prompt.
COMMAND_CUTOFF, PROMPT_CUTOFF = 0.7, 0.8
# What people call a command elsewhere, and how to say it here.
OTHER_COMMANDS = {
    "list": ("devices", "models"),
    "ls": ("devices", "models"),
    "gpus": ("devices",),
    "info": ("devices",),
    "architectures": ("models",),
    "types": ("models",),
    "generate": ("run",),
    "chat": ("run",),
    "benchmark": ("bench",),
    "split": ("plan",),
    "help": ("--help",),
    "version": ("--version",),
    "demo": ("--demo",),
}
# Options of llama.cpp and others, and what to write instead.
_LAYERS = "all layers are on the devices that --devices names"
_CORES = "the ranks share the cores by themselves"
_MODEL = ("-m", "--model", "--demo", "-hf", "-hfr", "--hf-repo")  # options that give the model
_CHAT = "a model with a chat template talks by itself where no -p is given"
_ALWAYS = "there is no switch for it"
OTHER_OPTIONS = {
    **dict.fromkeys(("-c", "--ctx-size"), "write --context"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), _LAYERS),
    **dict.fromkeys(("-t", "-tb", "--threads", "--threads-batch"), _CORES),
    **dict.fromkeys(("-dev", "-mg", "--main-gpu"), "write --devices"),
    **dict.fromkeys(("-ts",), "write --tensor-split"),
    **dict.fromkeys(("-sm", "--split-mode"), "every layer is split over all ranks; see --tensor-split"),
    **dict.fromkeys(("-b", "-ub", "--batch-size", "--ubatch-size"), "write --prefill-chunk"),
    **dict.fromkeys(("-ctk", "-ctv", "--cache-type-k", "--cache-type-v"), "write --kv-type"),
    **dict.fromkeys(("--n-predict", "--predict"), "write -n"),
    **dict.fromkeys(("-s",), "write --seed"),
    **dict.fromkeys(("-i", "-cnv", "--interactive", "--conversation"), _CHAT),
    **dict.fromkeys(("-no-cnv", "--no-conversation"), "write --no-chat"),
    **dict.fromkeys(("-st", "--single-turn"), "-p gets one answer"),
    **dict.fromkeys(("-sysf", "--system-prompt-file"), 'write -sys "$(cat FILE)"'),
    **dict.fromkeys(("--chat-template-file",), "write --chat-template"),
    **dict.fromkeys(("--jinja",), "chat templates are always rendered so"),
    **dict.fromkeys(("--context-shift",), "write --drop-oldest"),
    **dict.fromkeys(("-mu", "--model-url"), "write -hf and a repository, or download the file"),
    **dict.fromkeys(("-hft", "--hf-token"), "set HF_TOKEN: others can read the command line"),
    **dict.fromkeys(("--offline",), "set HF_HUB_OFFLINE=1"),
    "-V": "`tplaunch --version` tells the version",
    **dict.fromkeys(("-fa", "--flash-attn", "--mmap", "--no-mmap", "--mlock", "-e", "--escape"), _ALWAYS),
}


def parse_words(words: Sequence[str]) -> argparse.Namespace:
    """Returns the options of one command. Raises UsageError, or exits as argparse does.

    Of a command that takes a model, `model` is its path, a HubModel or None, of `run` `prompt` the prompt or
    None, and of one that evaluates a file `input` its path or None.
    """
    parser = make_parser()
    first = words[0]
    if first in parser.commands:
        words = words[1:]
    elif first.partition("=")[0] in ("-h", "--help", "--version", "--print-completion"):
        return parser.parse_args(words)
    else:
        _check_command(words, parser.commands)
        first = "run"  # `tplaunch --devices 0,1 model.gguf` needs no command
    command = parser.commands[first]
    options, others = parser.parse_known_args([first, *_joined(words, command)])
    unknown = next((word for word in others if word.startswith("-") and word not in ("-", "--")), None)
    if unknown is not None:
        _refuse(unknown, command, parser.commands)
    others = [word for word in others if word != "--"]
    if "model_file" in options:
        others = _take_model(options, others)
    if others:
        command.error(f"unrecognized arguments: {others[0]}")
    return options


def _check_command(words: Sequence[str], commands: Mapping[str, Parser]) -> None:
    """Raises UsageError where the first word is no file and nearly a command.

    Where an option gives the model the word may be a prompt, so only a slip of the fingers counts.
    """
    word = words[0]
    if word.startswith("-") or "/" in word or word.endswith(".gguf") or Path(word).exists():
        return
    may_be_prompt = any(each.partition("=")[0] in _MODEL for each in words)
    known = {command: (command,) for command in commands} | ({} if may_be_prompt else OTHER_COMMANDS)
    cutoff = PROMPT_CUTOFF if may_be_prompt else COMMAND_CUTOFF
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=cutoff)
    if near:
        meant = " or ".join(f"`tplaunch {command}`" for command in known[near[0]])
        what = f"command {word!r}" if may_be_prompt else f"file {word!r}, and no command of that name"
        prompt = f" A prompt of this one word is given by -p {word}" if may_be_prompt else ""
        raise UsageError(f"there is no {what}; did you mean {meant}?{prompt}")


def _joined(words: Sequence[str], command: Parser) -> list[str]:
    """The same words, with an option and its value in one where the value begins with a dash.

    argparse takes such a value for an option. Raises UsageError for another program's options.
    """
    known = command.known_options
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*found, word, *rest]
        _check_option(word, command)
        if not command.takes_value(word) or not rest:
            found.append(word)
            continue
        value = rest.pop(0)
        if value.partition("=")[0] in known:
            raise UsageError(
                f"{word} needs a value, but the option {value} follows it; for a value that begins with a"
                f" dash, write {word}={value}; see {command.prog} --help"
            )
        found += [f"{known[word].option_strings[-1]}={value}"] if value.startswith("-") else [word, value]
    return found


def _check_option(word: str, command: Parser) -> None:
    """Raises UsageError for an option of llama.cpp's, and for `-hello`, which argparse takes for -h."""
    name = word.partition("=")[0]
    if name in command.known_options or not word.startswith("-"):
        return
    if name in OTHER_OPTIONS:
        raise UsageError(f"unrecognized arguments: {name}: {OTHER_OPTIONS[name]}; see {command.prog} --help")
    if word[1:2] == "-" or command.takes_value(word[:2]) or word[:2] not in command.known_options:
        return
    if not all(f"-{letter}" in command.known_options for letter in word[1:]):
        command.error(
            f"unrecognized arguments: {word}; for a prompt that begins with a dash, write -p={word}"
        )


def _refuse(word: str, command: Parser, commands: Mapping[str, Parser]) -> None:
    """Exits with a sentence that names the option that may be meant."""
    name = word.partition("=")[0]
    long = {option.lstrip("-"): option for option in command.known_options if option.startswith("--")}
    near = difflib.get_close_matches(name.lstrip("-"), long, n=1)
    others = [each for each, parser in commands.items() if name in parser.known_options]
    hint = ""
    if others:
        hint = f"; it is an option of {', '.join(others)}"
    elif near:
        hint = f"; did you mean {long[near[0]]}?"
    command.error(f"unrecognized arguments: {name}{hint}")


def _take_model(options: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """Sorts the words that are no options: the model, unless -m or --demo gives it, then run's prompt.

    Returns what is left over.
    """
    places = (options.model, getattr(options, "text", None), getattr(options, "input", None))
    words = [word for word in places if word is not None]
    words += others
    given = models_by_option(options)
    if options.model_file == "" or "" in words[: not given]:
        raise UsageError("the model's path is empty: perhaps a variable of the shell that is not set")
    takes_more = options.command == "run" or "input" in options
    if len(given) > 1 or (given and words and not takes_more):
        raise UsageError("the model is given twice: by its name, by -m, by -hf or by --demo; use one of them")
    if not given and words:
        place = 0
        if "input" in options and len(words) > 1 and not words[0].endswith(".gguf"):
            place = int(words[1].endswith(".gguf"))  # the file to evaluate may come first
        given.append(Path(words.pop(place)))
    options.model = given[0] if given else None
    if "input" in options:
        options.input = _input_path(words.pop(0)) if words else None
    if options.command == "run":
        _take_prompt(options, words)
        return []
    return words


def _input_path(word: str) -> Path:
    """Returns the file to evaluate; `-` is standard input, as it is of a prompt."""
    return STANDARD_INPUT_FILE if word == "-" else Path(word)


def models_by_option(options: argparse.Namespace) -> list[Path | HubModel]:
    """Returns the models that -m, --demo and -hf name. Raises UsageError."""
    given: list[Path | HubModel] = [Path(options.model_file)] if options.model_file is not None else []
    given += [DEMO_MODEL] if options.demo else []
    given += [parse_hub_model(options.hf_repo, options.hf_file)] if options.hf_repo is not None else []
    if options.hf_file is not None and options.hf_repo is None:
        raise UsageError(f"-hff {options.hf_file:.120} names a file, but no -hf its repository")
    return given


def _take_prompt(options: argparse.Namespace, words: Sequence[str]) -> None:
    second_file = next((word for word in words if word.endswith(".gguf") and Path(word).is_file()), None)
    if second_file is not None:
        raise UsageError(
            f"{second_file} would be a second model: one runs at a time, and one of several files is given"
            " by any of them"
        )
    if len(words) > 1:
        raise UsageError(
            f"the prompt is {words[0]!r:.60}, and {words[1]!r:.60} follows it; put a prompt of several"
            " words in quotes"
        )
    if words and options.prompt is not None:
        raise UsageError(f"{words[0]!r:.60} and -p both give a prompt; use one of them")
    if words:
        options.prompt = words[0]
    if options.file is not None and (options.prompt is not None or options.tokens is not None):
        raise UsageError(f"-f {options.file} and -p or --tokens both give a prompt; use one of them")
    if options.demo and options.prompt is options.tokens is options.file is None:
        options.prompt = DEMO_PROMPT
