"""Words of the command line: the model in three ways, prompts, near misses, others' options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.model_path import check_path
from tplaunch.launcher.options import make_parser
from tplaunch.launcher.output_path import check_output_path
from tplaunch.launcher.words import DEMO_MODEL, DEMO_PROMPT, OTHER_COMMANDS, OTHER_OPTIONS, parse_words


def run_of(*words: str) -> tuple[str | None, str | None]:
    """The model and the prompt of `run`."""
    options = parse_words(words)
    assert options.command == "run"
    return None if options.model is None else str(options.model), options.prompt


@pytest.mark.parametrize(
    "words",
    [
        ["m.gguf", "-p", "Once"],
        ["m.gguf", "Once"],
        ["run", "m.gguf", "Once"],
        ["-m", "m.gguf", "Once"],
        ["-m", "m.gguf", "-p", "Once"],
        ["--model=m.gguf", "Once"],
        ["Once", "-m", "m.gguf"],
        ["--devices", "0,1", "m.gguf", "Once"],
        ["--devices", "0,1", "m.gguf", "-n", "5", "Once"],
        ["-n", "5", "-m", "m.gguf", "--ignore-eos", "Once"],
        ["m.gguf", "-n", "5", "Once", "--json"],
        ["-v", "m.gguf", "--", "Once"],
    ],
)
def test_the_model_and_the_prompt_stand_where_people_put_them(words: list[str]) -> None:
    assert run_of(*words) == ("m.gguf", "Once")


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["m.gguf", "-p", "-hello"], "-hello"),
        (["m.gguf", "-p=-hello"], "-hello"),
        (["m.gguf", "--prompt", "--hello"], "--hello"),
        (["m.gguf", "-p", "- one"], "- one"),
        (["m.gguf", "-p", "-5"], "-5"),
        (["m.gguf", "-p", "-"], "-"),
        (["m.gguf", "--", "-hello"], "-hello"),
        (["m.gguf", ""], ""),
        (["m.gguf"], None),
        (["m.gguf", "-p", "-c"], "-c"),  # another program's option, but here a value
    ],
)
def test_prompts_that_begin_with_a_dash(words: list[str], prompt: str | None) -> None:
    assert run_of(*words) == ("m.gguf", prompt)


def test_standard_input_may_be_the_file_to_evaluate() -> None:
    assert parse_words(["perplexity", "m.gguf", "-"]).input == Path("/dev/stdin")
    assert parse_words(["eval", "--demo", "-"]).input == Path("/dev/stdin")


def test_other_values_that_begin_with_a_dash() -> None:
    assert parse_words(["m", "--tokens", "-1,5"]).tokens == "-1,5"
    assert parse_words(["plan", "m", "--devices", "-x"]).devices == "-x"


def test_the_demo_model_comes_along() -> None:
    assert DEMO_MODEL.is_file()
    assert run_of("--demo") == (str(DEMO_MODEL), DEMO_PROMPT)
    assert run_of("--demo", "There was") == (str(DEMO_MODEL), "There was")
    assert run_of("--demo", "-n", "5", "-p", "There was") == (str(DEMO_MODEL), "There was")
    assert run_of("--demo", "--tokens=5") == (str(DEMO_MODEL), None)
    assert run_of("--demo", "-f", "prompt.txt") == (str(DEMO_MODEL), None)
    for command in ("plan", "bench", "tune"):
        assert parse_words([command, "--demo"]).model == DEMO_MODEL
    assert parse_words(["plan", "-m", "m.gguf"]).model == Path("m.gguf")
    assert parse_words(["plan"]).model is parse_words(["run"]).model is None


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence, by whatever way it is said."""
    try:
        parse_words(words)
    except UsageError as error:
        return str(error)
    except SystemExit as ended:
        assert ended.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith("tplaunch: ") and printed.count("\n") == 1
        return printed.removeprefix("tplaunch: ").rstrip()
    pytest.fail("nothing was refused")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["device"],
            "there is no file 'device', and no command of that name; did you mean `tplaunch devices`?",
        ),
        (["lst"], "did you mean `tplaunch devices` or `tplaunch models`?"),
        (["Devices", "--json"], "did you mean `tplaunch devices`?"),
        (["bnch", "--shape=tiny"], "did you mean `tplaunch bench`?"),
        (["bench-collective"], "did you mean `tplaunch bench-collectives`?"),
        (["tunes", "m.gguf"], "did you mean `tplaunch tune`?"),
        (["logit", "m.gguf"], "did you mean `tplaunch logits`?"),
        (["help"], "did you mean `tplaunch --help`?"),
        (
            ["serv", "--demo"],
            "there is no command 'serv'; did you mean `tplaunch serve`? A prompt of this one word is given by"
            " -p serv",
        ),
        (["Batch", "-m", "m.gguf"], "did you mean `tplaunch batch`"),
        (["m", "--contxt", "5"], "--contxt; did you mean --context?; see tplaunch run --help"),
        (["m", "-devices", "0"], "-devices; did you mean --devices?; see tplaunch run --help"),
        (["m", "--decode=5"], "--decode; it is an option of bench; see tplaunch run --help"),
        (
            ["m", "--repeat=5"],
            "--repeat=5 could match --repeat-penalty, --repeat-last-n; see tplaunch run --help",
        ),
        (["bench", "m", "--temperature", "0"], "--temperature; it is an option of run; see tplaunch bench"),
        (["m", "--wrong"], "unrecognized arguments: --wrong; see tplaunch run --help"),
        (["m", "-hello"], "-hello; for a prompt that begins with a dash, write -p=-hello"),
        (["m", "-c", "256"], "-c: write --context; see tplaunch run --help"),
        (["m", "--ctx-size=256"], "--ctx-size: write --context"),
        (["m", "-ngl", "99"], "-ngl: all layers are on the devices"),
        (["bench", "m", "-t", "4"], "-t: the ranks share the cores by themselves; see tplaunch bench --help"),
        (["-mu", "https://x"], "-mu: write -hf and a repository"),
        (["m", "-hft", "x"], "-hft: set HF_TOKEN"),
        (["plan", "m", "-hf", "org/m"], "the model is given twice"),
        (["-hf", "org/m", "--demo"], "the model is given twice"),
        (["-hf", "org/m:Q8_0", "-hff", "m.gguf"], "names a quant, and -hff m.gguf a file"),
        (["-hff", "m.gguf"], "-hff m.gguf names a file, but no -hf its repository"),
        (["-hf", "llama"], "-hf llama: a repository of Hugging Face is written org/name"),
        (["m", "-p", "-n", "5"], "-p needs a value, but the option -n follows it; for a value that begins"),
        (["m", "-p"], "argument -p/--prompt: expected one argument; see tplaunch run --help"),
        (["m", "Once", "upon"], "the prompt is 'Once', and 'upon' follows it; put a prompt of several words"),
        (["m", "Once", "-p", "upon"], "'Once' and -p both give a prompt"),
        (["-m", "m", "Once", "upon"], "put a prompt of several words in quotes"),
        (["m", "-f", "p.txt", "-p", "x"], "-f p.txt and -p or --tokens both give a prompt"),
        (["m", "-f", "p.txt", "Once"], "-f p.txt and -p or --tokens both give a prompt"),
        (["--print-completion", "csh"], "argument --print-completion: invalid choice: 'csh'"),
        (["-m", "m", "--demo"], "the model is given twice"),
        (["plan", "m", "-m", "m"], "the model is given twice"),
        (["plan", "m", "n"], "unrecognized arguments: n; see tplaunch plan --help"),
        (["devices", "all"], "unrecognized arguments: all; see tplaunch"),
    ],
)
def test_near_misses(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(words, capsys)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["-hf", "org/m"], HubModel("org/m")),
        (["run", "-hfr", "org/m-GGUF:q8_0", "Once"], HubModel("org/m-GGUF", "q8_0")),
        (["--hf-repo=org/m", "--hf-file", "a/m.gguf"], HubModel("org/m", file="a/m.gguf")),
        (["-hf", "https://huggingface.co/org/m.v1/"], HubModel("org/m.v1")),
        (["bench", "-hf", "hf.co/org/m:Q4_0"], HubModel("org/m", "Q4_0")),
        (["-n", "5", "-hf", "org/m", "Once"], HubModel("org/m")),
    ],
)
def test_a_model_in_a_repository(words: list[str], model: HubModel) -> None:
    options = parse_words(words)
    assert options.model == model
    assert getattr(options, "prompt", None) == ("Once" if "Once" in words else None)


def test_a_file_may_be_called_like_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("device").touch()
    assert run_of("device") == ("device", None)
    assert run_of("./list") == ("list", None)
    assert run_of("list", "-m", "m.gguf") == ("m.gguf", "list")  # a prompt


def test_a_second_model_is_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "m-00002-of-00002.gguf"
    part.touch()
    assert "would be a second model" in refusal([str(tmp_path / "m-00001-of-00002.gguf"), str(part)], capsys)


def test_hints_point_to_what_there_is() -> None:
    """No option or command of ours is called another program's, and the commands meant are ours."""
    parser = make_parser()
    ours = {option for command in parser.commands.values() for option in command.known_options}
    assert not ours & OTHER_OPTIONS.keys() and not parser.commands.keys() & OTHER_COMMANDS.keys()
    written = {hint.split()[1] for hint in OTHER_OPTIONS.values() if hint.startswith("write -")}
    assert written <= ours
    meant = {name for names in OTHER_COMMANDS.values() for name in names}
    assert meant <= {*parser.commands, "--help", "--version", "--demo"}


# What is no model file.


def why(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        check_path(path)
    return str(caught.value)


def test_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    assert why(tmp_path) == f"{tmp_path} is not a file but a folder without a GGUF file"
    (tmp_path / "model.safetensors").touch()
    assert "download the model as GGUF" in why(tmp_path)
    for name in ("b.gguf", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf"):
        (tmp_path / name).touch()
    assert why(tmp_path).endswith(
        "is not a file but a folder; name a file in it: a-00001-of-00002.gguf, b.gguf"
    )
    for number in range(9):
        (tmp_path / f"c{number}.gguf").touch()
    assert why(tmp_path).endswith("b.gguf, c0.gguf, c1.gguf, c2.gguf and 6 more")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.gguf", "absent.gguf: no such file"),
        ("folder/absent.gguf", "folder/absent.gguf: no such file"),
        ("lst", "lst: no such file, and no command; a command comes first, see tplaunch --help"),
        ("stories", "stories: no such file; did you mean stories.gguf?"),
        ("storys.gguf", "storys.gguf: no such file; did you mean stories.gguf?"),
        ("org/Model-7B-GGUF", "if it is a repository of Hugging Face, write -hf org/Model-7B-GGUF"),
        ("org/Model-7B-GGUF:Q4_K_M", "write -hf org/Model-7B-GGUF:Q4_K_M"),
        ("https://huggingface.co/org/m/resolve/main/m.gguf", "is an address, not a file; write -hf org/m"),
        ("hf.co/org/model", "is an address, not a file; write -hf org/model"),
        ("https://example.org/m.gguf", "is an address, not a file; download the file, and give its path"),
        ("llama3:8b", "llama3:8b: no such file; write -hf org/name:QUANT"),
        ("~/stories.gguf", "did you mean"),
    ],
)
def test_a_name_without_a_file(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "stories.gguf").touch()
    assert sentence in why(Path(name))
    check_path(Path("stories.gguf"))


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    """Is bad input, as other wrong names are, to read and to write."""
    name = Path("x" * 300)
    assert why(name) == f"{name} can't be read: File name too long"
    for path in (name, name / "out.npz"):
        with pytest.raises(UsageError, match=r"--out x+(/out.npz)? can't be written: File name too long"):
            check_output_path("--out", path)


@pytest.mark.parametrize("words", [["", "-p", "Once"], ["-m", ""], ["plan", ""], ["--devices", "0", ""]])
def test_an_empty_name_is_a_variable_that_is_not_set(words: list[str]) -> None:
    with pytest.raises(UsageError, match="the model's path is empty: perhaps a variable"):
        parse_words(words)


def test_every_command_with_a_model_takes_it_in_each_way() -> None:
    without = ("devices", "models", "bench-collectives", "check", "keygen", "join")
    for name, command in make_parser().commands.items():
        options: argparse.Namespace = command.parse_known_args(["x", "--out=x", "--tokens=1"])[0]
        takes_model = "model_file" in options
        assert takes_model == (name not in without) == ("--demo" in command.known_options)
        assert "-m" in command.known_options or not takes_model
