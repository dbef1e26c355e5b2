"""One declaration an option: from a dataclass's field to the command line, and whole to the workers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.models import LIMITS, SPEC
from tplaunch.coordinator.encoding import decode, encode
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.options import RankOptions, declared_options, option, split_names
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.config import SERVING_GROUP, RunConfig
from tplaunch.launcher.declared import add_declared, declared_values
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model_options import add_model_options, run_config
from tplaunch.launcher.options import make_parser

# Every option that travels, with another value than its default.
GIVEN: dict[str, tuple[list[str], Any]] = {
    "collective": (["--collective=zmq-ring"], "zmq-ring"),
    "all_reduce": (["--all-reduce=one-shot"], "one-shot"),
    "wire": (["--wire=q8"], "q8"),
    "timeout_seconds": (["--timeout=2.5"], 2.5),
    "cpu_threads": (["--cpu-threads=3"], 3),
    "validate": (["--validate"], True),
    "staging": (["--staging"], True),
    "submit_ahead": (["--submit-then-wait"], False),
    "waiting": (["--waiting=poll"], "poll"),
    "sums": (["--sums=moved"], "moved"),
    "without": (["--without=int64,float16"], ("int64", "float16")),
}


@dataclass(frozen=True, kw_only=True)
class Kitchen(RankOptions):
    """Options of every kind."""

    salt: bool = option("-s --salt", default=False, group="taste", help="more of it")
    pans: int = option("--pans", default=2, group="tools", number=int, metavar="N", help="(%(default)s)")
    dish: str = option("--main-dish", default="soup", group="taste", choices=("soup", "pie"), help="one")
    herbs: tuple[str, ...] = option("--herbs", default=(), group="taste", read=split_names, help="some")
    oven: bool | None = option("--hot", default=None, group="tools", help="on", opposite=("--cold", "off"))
    notes: tuple[str, ...] = option(
        "--note", default=(), group="tools", read=tuple, is_repeated=True, help="any"
    )
    size: int = option(
        "--size", default=8, default_text="8B", group="tools", read=lambda text: int(text[:-1]),
        help="(%(default)s)",
    )  # fmt: skip
    guests: int = 0  # not the user's


def cooked(*words: str) -> Kitchen:
    parser = argparse.ArgumentParser()
    add_declared(parser, Kitchen, declared_options(Kitchen))
    return Kitchen(**declared_values(Kitchen, parser.parse_args(words)))


def test_no_words_give_the_defaults() -> None:
    assert cooked() == Kitchen()


def test_every_kind_of_option_is_read() -> None:
    found = cooked("-s", "--pans=3", "--main-dish", "pie", "--herbs=sage,dill", "--cold", "--size=9B",
                   "--note=a,b", "--note=c", "--timeout=3")  # fmt: skip
    assert found == Kitchen(
        salt=True, pans=3, dish="pie", herbs=("sage", "dill"), oven=False, notes=("a,b", "c"), size=9,
        timeout_seconds=3.0,
    )  # fmt: skip
    assert cooked("--hot").oven is True


@pytest.mark.parametrize("words", [["--pans=x"], ["--main-dish=cake"], ["--hot", "--cold"]])
def test_what_argparse_can_refuse_it_refuses(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        cooked(*words)


def test_the_help_shows_defaults_as_they_are_typed() -> None:
    parser = argparse.ArgumentParser()
    add_declared(parser, Kitchen, ("size", "pans"))
    assert "(8B)" in parser.format_help() and "(2)" in parser.format_help()


def test_every_declared_option_of_a_run_is_on_its_command_line() -> None:
    commands = make_parser().commands
    for name, declared in declared_options(RunConfig).items():
        known = commands["serve" if declared.group == SERVING_GROUP else "run"].known_options
        for flag in declared.flags:
            assert known[flag].dest == declared.name == declared.flags[-1][2:].replace("-", "_"), name


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_travels_from_the_command_line_to_the_worker(name: str) -> None:
    assert set(GIVEN) == set(declared_options(RankOptions))
    words, value = GIVEN[name]
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    config = run_config(parser.parse_args(words), Path("m.gguf"))
    assert config.rank_options == RankOptions(**{name: value}) != RankOptions()
    received = decode(encode(load(config.rank_options)))
    assert isinstance(received, Load) and received.options == config.rank_options


def test_what_commands_set_travels_too() -> None:
    flags = {field.name for field in fields(RankOptions)} - set(GIVEN)
    changes: dict[str, Any] = dict.fromkeys(flags, True)
    config = replace(RunConfig(model=Path("m")), **changes)
    received = decode(encode(load(config.rank_options)))
    assert isinstance(received, Load)
    assert all(getattr(received.options, name) is True for name in flags) and len(flags) == 4


def load(options: RankOptions) -> Load:
    return Load(
        Origin((), "h"), SPEC, (), make_plan(SPEC, [1])[0], Placement.single(1), LIMITS, options, b"t" * 16
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"collective": "mpi"}, "--collective mpi: known are"),
        ({"without": ["x87"]}, "--without x87: known are int64"),
        ({"timeout_seconds": -1}, "--timeout -1.0: a positive number of seconds"),
        ({"timeout_seconds": True}, "True is no float"),
        ({"submit_ahead": 1}, "1 is no bool"),
        ({"surprise": 1}, "the fields of RankOptions are collective, all_reduce"),
    ],
)
def test_a_worker_refuses_options_that_are_not_possible(changes: dict[str, Any], sentence: str) -> None:
    name, fields_of_load = msgpack.unpackb(encode(load(RankOptions()))[0])
    fields_of_load["options"] |= changes
    with pytest.raises(WireError, match=sentence):
        decode([msgpack.packb([name, fields_of_load])])


def test_a_run_says_as_a_usage_error_what_ranks_would_refuse() -> None:
    with pytest.raises(UsageError, match="--without x87: known are int64"):
        RunConfig(model=Path("m"), without=("x87",))
