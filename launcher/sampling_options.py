"""The options of sampling: llama.cpp's names for the fields of SamplingParams, and their defaults."""

from __future__ import annotations

import argparse
import re

from tplaunch.coordinator.serving.sampling.parameters import STAGES, SamplingParams
from tplaunch.launcher.errors import UsageError

# Option, further name, field, type, metavar, help. The default comes from the field.
_NUMBERS: tuple[tuple[str, str | None, str, type, str, str], ...] = (
    ("--temperature", "--temp", "temperature", float, "T", "0 takes the likeliest token"),
    ("--top-k", None, "top_k", int, "K", "keep so many of the likeliest tokens; 0: off"),
    ("--top-p", None, "top_p", float, "P", "keep the likeliest that together reach P; 1: off"),
    ("--min-p", None, "min_p", float, "P", "keep those at least P times as likely as the likeliest; 0: off"),
    ("--typical", None, "typical_p", float, "P", "keep the most typical that together pass P; 1: off"),
    ("--top-n-sigma", None, "top_n_sigma", float, "N",
     "keep logits within N standard deviations of the highest; 0 or less: off"),
    ("--xtc-probability", None, "xtc_probability", float, "P", "how often XTC strikes; 0: off"),
    ("--xtc-threshold", None, "xtc_threshold", float, "P",
     "it leaves out those as likely, but one; above 0.5: off"),
    ("--dry-multiplier", None, "dry_multiplier", float, "N", "DRY lowers what repeats the text; 0: off"),
    ("--dry-base", None, "dry_base", float, "N", "by how much more for each token"),
    ("--dry-allowed-length", None, "dry_allowed_length", int, "N", "from which length of a repetition on"),
    ("--dry-penalty-last-n", None, "dry_penalty_last_n", int, "N", "in the last N tokens; -1: in all"),
    ("--repeat-penalty", None, "repetition_penalty", float, "N", "divides logits of what came; 1: off"),
    ("--repeat-last-n", None, "repeat_last_n", int, "N", "penalties look at the last N tokens; -1: at all"),
    ("--presence-penalty", None, "presence_penalty", float, "N", "lowers logits of tokens that came"),
    ("--frequency-penalty", None, "frequency_penalty", float, "N", "lowers them for each time"),
    ("--min-tokens", None, "min_tokens", int, "N", "no end before so many"),
)  # fmt: skip

# A field by what its options are called, with underscores.
FIELDS_BY_OPTION = {
    name.lstrip("-").replace("-", "_"): field
    for option, alias, field, *_ in _NUMBERS
    for name in (option, alias or option)
}


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group, defaults = parser.add_argument_group("sampling"), SamplingParams()
    for option, alias, field, kind, metavar, text in _NUMBERS:
        group.add_argument(
            *((option, alias) if alias else (option,)),
            dest=field,
            type=kind,
            default=getattr(defaults, field),
            metavar=metavar,
            help=f"{text} (default: %(default)s)",
        )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    group.add_argument(
        "--dry-sequence-breaker",
        dest="dry_sequence_breakers",
        action="append",
        metavar="TEXT",
        help="no repetition is counted across it; may be given several times, none for no breakers"
        " (default: newline, colon, double quote, asterisk)",
    )
    group.add_argument(
        "--logit-bias",
        action="append",
        metavar="ID(+/-)BIAS",
        help="adds to a token's logit, such as 15043+1 or 15043-inf; may be given several times",
    )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends the text; may be given several times"
    )
    group.add_argument(
        "--samplers",
        default=";".join(defaults.samplers),
        metavar="LIST",
        help=f"the order of the stages, those of {';'.join(STAGES)} that shall run (default: that order)",
    )


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """Returns what the options of a run ask for. Raises UsageError."""
    if options.max_tokens is not None and options.max_tokens < 1:
        raise UsageError(f"-n {options.max_tokens}: at least 1 token is needed")
    breakers = options.dry_sequence_breakers
    if breakers is None:
        breakers = SamplingParams().dry_sequence_breakers
    try:
        return SamplingParams(
            **{field: getattr(options, field) for _, _, field, *_ in _NUMBERS},
            seed=options.seed,
            dry_sequence_breakers=[text for text in breakers if text != "none"],
            logit_bias=None if options.logit_bias is None else dict(map(_bias, options.logit_bias)),
            stop=options.stop,
            samplers=options.samplers,
            ignore_eos=options.ignore_eos,
            max_tokens=options.max_tokens,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _bias(text: str) -> tuple[int, float]:
    """A token id and what is added to its logit, of a text such as 15043-1.5."""
    match = re.fullmatch(r"(\d+)([+-](?:inf|\d+(?:\.\d*)?))", text)
    if match is None:
        raise UsageError(f"--logit-bias {text} is not a token id with a sign and a number, such as 15043+1")
    return int(match[1]), float(match[2])
