"""The command line's options as keyword arguments of Python: the same names, defaults, checks and meaning.

A keyword becomes the word that the command line would have, and the same parser reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.config import API_PARALLEL, HubModel, RunConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model_options import add_model_options, run_config
from tplaunch.launcher.options import Parser
from tplaunch.launcher.words import models_by_option

OPTION = re.compile(r"(?<![\w-])--?([a-zA-Z][a-z-]+)")  # within a sentence
REPOSITORY = re.compile(r"(?<![\w-])-hf ([\w./:-]*\w)")
# Names of vLLM's, llama-cpp-python's and transformers' with the same meaning, and ours.
ALIASES = {
    "max_model_len": "context",
    "n_ctx": "context",
    "model_path": "model",
    "max_num_seqs": "parallel",
    "pipeline_parallel_size": "pipeline",
}
_FILE = "the model file says it"
_LAYERS = "all layers are on the devices that devices= names"
_CORES = "the ranks share the cores by themselves"
# What has no counterpart, or another meaning.
HINTS = {
    **dict.fromkeys(
        ("dtype", "quantization", "load_format", "torch_dtype", "tokenizer", "tokenizer_mode"), _FILE
    ),
    **dict.fromkeys(
        ("gpu_memory_utilization", "swap_space", "cpu_offload_gb"),
        'max_memory={0: "8GiB"} says what the ranks on a device may take',
    ),
    **dict.fromkeys(("device", "device_map", "main_gpu"), 'devices="0,1" names the devices'),
    **dict.fromkeys(("n_gpu_layers", "gpu_layers"), _LAYERS),
    **dict.fromkeys(("n_threads", "threads"), _CORES),
    **dict.fromkeys(
        ("n_batch", "n_ubatch", "max_num_batched_tokens"), "prefill_chunk= says how many rows a step has"
    ),
    "kv_cache_dtype": 'kv_type="q8_0" is such an option',
    **dict.fromkeys(("download_dir", "revision"), "HF_HOME says where downloads lie"),
    "trust_remote_code": "no code of a model is ever run",
    "enforce_eager": "there is nothing to turn off",
    "enable_prefix_caching": "beginnings that prompts share are always computed once",
    **dict.fromkeys(
        {field.name for field in dataclasses.fields(SamplingParams)} - {"seed"},
        "it is a field of SamplingParams, for each request",
    ),
    "repo_id": 'hf="org/name:Q4_K_M" names a repository of Hugging Face',
}


class _KeywordParser(Parser):
    """Raises what the command line's parser would print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(in_keywords(message.removeprefix("argument ")))


def config_of(model: str | os.PathLike[str] | None, keywords: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration that the command line would make of these options. Raises UsageError.

    model: the file's path; None where a keyword names it (hf, hf_repo, demo). Values are what is natural in
    Python: tensor_split=[3, 1], devices=[0, 1], max_memory={0: "8GiB"}, override_kv={"key": 5}. None stands
    for an option that is left out.
    """
    parser = _KeywordParser(prog="LLM", add_help=False)
    add_model_options(parser, serves=True)
    parser.set_defaults(parallel=API_PARALLEL)
    given = {ALIASES.get(name, name): value for name, value in keywords.items() if value is not None}
    if len(given) < sum(value is not None for value in keywords.values()):
        raise UsageError(f"{', '.join(keywords)}: two of these names stand for one option; give one of them")
    if model is not None:
        given = {"model": os.fspath(model), **given}
    options = parser.parse_args([word for name in given for word in _words(name, given[name], parser)])
    try:
        return run_config(options, _the_model(options))
    except UsageError as error:
        raise UsageError(in_keywords(str(error))) from None


def in_keywords(sentence: str) -> str:
    """Returns the sentence with options as Python writes them: context for --context."""
    sentence = REPOSITORY.sub(r'hf="\1"', sentence)
    return OPTION.sub(lambda found: found[1].replace("-", "_"), sentence)


def _the_model(options: argparse.Namespace) -> Path | HubModel:
    models = models_by_option(options)
    if len(models) != 1 or options.model_file == "":
        found = "the model is given twice" if len(models) > 1 else "there is no model"
        raise UsageError(f'{found}; give one of model="model.gguf", hf="org/name:Q4_K_M" and demo=True')
    return models[0]


def _words(name: str, value: Any, parser: Parser) -> Iterator[str]:
    """Yields what the command line has for a keyword."""
    actions = {
        option.lstrip("-").replace("-", "_"): (option, action)
        for option, action in parser.known_options.items()
        if len(option) > 2
    }
    if name not in actions:
        raise UsageError(f"there is no option {name}{_hint(name, [*actions, *ALIASES, *HINTS])}")
    option, action = actions[name]
    if action.nargs != 0:
        yield from (
            f"{option}={text}" for text in _texts(name, value, is_list=isinstance(action.default, list))
        )
        return
    if not isinstance(value, bool):
        raise UsageError(f"{name} is True or False, not {value!r:.60}")
    # Of two options for one thing, such as --submit-ahead and --submit-then-wait, not the one is the other.
    opposites = [
        other for other, its in actions.values() if its.dest == action.dest and its.const != action.const
    ]
    yield from [option] if value else opposites[:1]


def _hint(name: str, known: list[str]) -> str:
    if name in HINTS:
        return f": {HINTS[name]}"
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        return "; `tplaunch run --help` lists them all"
    return f"; did you mean {ALIASES.get(near[0], near[0])}?"


def _texts(name: str, value: Any, is_list: bool) -> list[str]:
    """Returns the texts that stand behind the option, one for each time it is given."""
    if not is_list:
        return [_text(name, value)]
    if isinstance(value, Mapping):
        return [f"{key}={_typed(name, of_key)}" for key, of_key in value.items()]
    return [value] if isinstance(value, str) else [_text(name, each) for each in value]


def _text(name: str, value: Any) -> str:
    """A value in the form that people type."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(name, of_key)}" for key, of_key in value.items())
    if isinstance(value, list | tuple):
        return ",".join(_text(name, each) for each in value)
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return str(int(value))
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        return repr(float(value))
    raise UsageError(f"{name} can't be of type {type(value).__name__}: {value!r:.60}")


def _typed(name: str, value: Any) -> str:
    """A value of the model file's metadata, with its type as --override-kv has it."""
    if isinstance(value, bool):
        return f"bool:{str(value).lower()}"
    kind = (
        "int"
        if isinstance(value, numbers.Integral)
        else "float"
        if isinstance(value, numbers.Real)
        else "str"
    )
    return f"{kind}:{_text(name, value)}"
