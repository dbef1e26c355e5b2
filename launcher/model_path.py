"""Says what may be meant by a model's name that is no file: a folder, a command, a repository."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tplaunch.coordinator.gguf.paths import path_fault
from tplaunch.launcher.errors import UsageError

LATER_PART = re.compile(
    r"-0*(?:[2-9]|[1-9]\d+)-of-\d+\.gguf$"
)  # of a model of several files: the first stands for it
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")  # of Hugging Face, with llama.cpp's :Q4_K_M
TAGGED = re.compile(r"[\w.-]+:[\w.-]+")  # Ollama's names
URL = re.compile(r"\w+:/|(?:www\.)?(?:hf\.co|huggingface\.co)/")
# Path makes one slash of two.
HUB_PATH = re.compile(r"(?:https?:/+)?(?:www\.)?(?:hf\.co|huggingface\.co)/(?P<repository>[\w.-]+/[\w.-]+)")
MAX_NAMES = 5


def check_path(path: Path) -> None:
    """Raises UsageError for a folder, and for a path at which there is nothing or that can't be looked at."""
    try:
        path.lstat()
    except FileNotFoundError:
        raise UsageError(_missing(path)) from None
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered
        raise UsageError(path_fault(path)) from None
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises some errors
        raise UsageError(f"{path} is not a file but a folder{_contents(path)}")


def _contents(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return ""
    models = [name for name in names if name.endswith(".gguf") and not LATER_PART.search(name)]
    if models:
        return f"; name a file in it: {_listed(models)}"
    if any(name.endswith((".safetensors", ".bin")) for name in names):
        return " without a GGUF file; download the model as GGUF, or convert it with llama.cpp's scripts"
    return " without a GGUF file"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _missing(path: Path) -> str:
    text = str(path)
    if URL.match(text):
        on_hub = HUB_PATH.match(text)
        hint = f"write -hf {on_hub['repository']}" if on_hub else "download the file, and give its path"
        return f"{text} is an address, not a file; {hint}"
    at_home = path.expanduser() if text.startswith("~/") else path
    if at_home.is_file():
        return f"{text}: no such file; did you mean {at_home}? (the shell leaves this ~ as it is)"
    near = _near(path)
    if near:
        return f"{text}: no such file; did you mean {near}?"
    if REPOSITORY.fullmatch(text) and path.suffix != ".gguf" and not path.parent.is_dir():
        return f"{text}: no such file; if it is a repository of Hugging Face, write -hf {text}"
    if TAGGED.fullmatch(text):
        return f"{text}: no such file; write -hf org/name:QUANT for a model of Hugging Face"
    if "/" not in text and not path.suffix:
        return f"{text}: no such file, and no command; a command comes first, see tplaunch --help"
    return f"{text}: no such file"


def _near(path: Path) -> Path | None:
    """Finds a model file beside it with nearly the same name, or with the same one and an ending."""
    try:
        names = [each.name for each in path.parent.iterdir() if each.suffix.lower() == ".gguf"]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    near += [name for name in names if Path(name).stem == path.name]
    return path.parent / near[0] if near else None
