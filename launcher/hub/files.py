"""Chooses the files of a repository that are the wanted model: by names alone, without network.

The rules are llama.cpp's: without a quant Q4_K_M, else the first; all parts of a split model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tplaunch.coordinator.gguf.parts import PART_NAME
from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError

DEFAULT_QUANT = "Q4_K_M"
MAX_SHOWN = 12  # names in an error
NAME = r"[A-Za-z0-9_][\w.-]{0,95}"
FORM = re.compile(rf"(?P<repository>{NAME}/{NAME})(?::(?P<quant>[\w.-]+))?", re.ASCII)
HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/")
# What lies beside models and is none: projectors of pictures, importance matrices, drafts for speculation.
_BESIDE = re.compile(r"(?:^|[-_.])(?:mmproj|imatrix|draft|drafter|mtp|eagle\d?)(?:[-_.]|$)", re.IGNORECASE)
_QUANT = re.compile(
    r"(?:^|[-_./])((?:UD-)?(?:I?Q\d|TQ\d|MXFP\d|NVFP\d|BF16|F16|F32|FP16|FP32)(?:_[A-Z0-9]+)*)(?=[-./]|$)",
    re.IGNORECASE,
)


def parse_hub_model(text: str, file: str | None = None) -> HubModel:
    """The value of -hf, and that of -hff. Raises UsageError for another form than org/name:QUANT."""
    match = FORM.fullmatch(HOST.sub("", text, count=1).rstrip("/"))
    if match is None:
        raise UsageError(
            f"-hf {text:.120}: a repository of Hugging Face is written org/name, or"
            f" org/name:{DEFAULT_QUANT} for one of its quants; -hff FILE names a file in it"
        )
    if file is not None and match["quant"] is not None:
        raise UsageError(f"-hf {text:.120} names a quant, and -hff {file:.120} a file; use one of them")
    return HubModel(match["repository"], match["quant"], file)


def choose_files(names: Sequence[str], model: HubModel) -> list[str]:
    """The names of the model's files, all parts of one that is split, in their order.

    names: the repository's files. Raises UsageError, saying what there is, where none fits.
    """
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf") and _is_safe(name))
    if model.file is not None:
        if model.file not in ggufs:
            raise UsageError(f"-hff {model.file:.120}: {model.repository} has no such file{_listed(ggufs)}")
        return _all_parts(model.file, ggufs)
    models = [name for name in ggufs if not _BESIDE.search(_last(name))]
    if not models:
        hint = "; look for a repository of the same model as GGUF" if names else ""
        raise UsageError(f"the repository {model.repository} has no model as GGUF file{hint}")
    wanted = model.quant or DEFAULT_QUANT
    fitting = [name for name in models if _has_quant(name, wanted)]
    if not fitting and model.quant is not None:
        raise UsageError(
            f"the repository {model.repository} has no file of quant {wanted}{_listed(_quants(models))}"
        )
    return _all_parts((fitting or models)[0], models)


def _is_safe(name: str) -> bool:
    """Tells whether a name stays within the folder of its repository."""
    return not name.startswith("/") and "\\" not in name and ".." not in name.split("/")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _has_quant(name: str, quant: str) -> bool:
    """Tells whether a name has a quant's as a word of its own: Q4_K is not Q4_K_M, and Q4_0 not IQ4_0."""
    return re.search(rf"(?:^|[-_./]){re.escape(quant)}(?=[-./])", name, re.IGNORECASE) is not None


def _quants(names: Sequence[str]) -> list[str]:
    """Returns the quants that can be asked for; whole names where they tell no quant."""
    found = [match[-1] if (match := _QUANT.findall(name.removesuffix(".gguf"))) else name for name in names]
    return list(dict.fromkeys(found))


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ", nor any other GGUF file"
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"; there is {', '.join(f'{name:.120}' for name in names[:MAX_SHOWN])}{more}"


def _all_parts(name: str, names: Sequence[str]) -> list[str]:
    """The parts of the model to which a file belongs. Raises UsageError where the repository lacks one."""
    match = PART_NAME.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    parts = sorted(
        other
        for other in names
        if (part := PART_NAME.fullmatch(other))
        and part["prefix"] == match["prefix"]
        and int(part["count"]) == count
    )
    if len(parts) != count:
        raise UsageError(f"{name:.200} is one of {count} parts, of which the repository has {len(parts)}")
    return parts
