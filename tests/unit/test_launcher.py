"""Tests the launcher's decisions before a worker starts: options, devices, cores, memory, logs."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples, write_llama
from tests.unit.listed_devices import device
from tplaunch import collectives
from tplaunch.coordinator.messages import Progress
from tplaunch.coordinator.options import COLLECTIVES
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.cli import main
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.cores import rank_cores
from tplaunch.launcher.devices import DeviceChoice, DeviceList, choose_devices, select_devices
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.logs import MAX_KEPT_RUNS, RunLogs
from tplaunch.launcher.number_lists import parse_numbers, parse_tokens
from tplaunch.launcher.progress import show_progress

# Devices.


LISTED = DeviceList(
    (
        device(0, "NVIDIA GeForce RTX 3060"),
        device(1, "NVIDIA GeForce RTX 3060"),
        device(2, "AMD Radeon RX 6600"),
        device(3, "llvmpipe (LLVM 15)", type="cpu"),
        device(4, "Old thing", unusable="no Vulkan 1.2"),
    ),
    "",
)


def chosen(text: str, listed: DeviceList = LISTED) -> list[int | None]:
    return [choice.index for choice in choose_devices(text, listed)]


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 1,1 ", [1, 1, 1]),
        ("all", [0, 1, 2]),
        ("ALL,2", [0, 1, 2, 2]),
        ("radeon", [2]),
        ("RX 6600,llvmpipe", [2, 3]),
        ("numpy", [None]),
        ("CPU,0,Cpu", [None, 0, None]),
    ],
)
def test_devices_are_named_by_index_by_name_or_all_at_once(text: str, indices: list[int | None]) -> None:
    assert chosen(text) == indices


def test_a_choice_carries_what_the_driver_said() -> None:
    radeon, llvmpipe = "AMD Radeon RX 6600", "llvmpipe (LLVM 15)"
    driver = "its driver 1.0"
    kinds = {name: f"{name}, {driver}" for name in (radeon, llvmpipe)}
    said: dict[str, Any] = {"driver": driver, "driver_version": 1}
    sizes = (1 << 30, 1 << 29, 1 << 28)
    assert choose_devices("2,llvmpipe,numpy", LISTED) == [
        DeviceChoice(2, radeon, f"{3:032x}", False, *sizes, kind=kinds[radeon], **said),
        DeviceChoice(
            3, llvmpipe, f"{4:032x}", True, *sizes, imports_memory=True, kind=kinds[llvmpipe], **said
        ),
        DeviceChoice(None, "numpy"),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--devices '': device indices or names separated by commas are needed, such as 0,1"),
        ("0,,1", "--devices '0,,1': device indices or names separated by commas"),
        ("0,", "separated by commas are needed"),
        ("5", r"there is no Vulkan device '5'; there are: 0 \(NVIDIA GeForce RTX 3060\), 1 \("),
        ("-1", "there is no Vulkan device '-1'"),
        ("--1", "there is no Vulkan device '--1'"),
        ("\u00b2", "there is no Vulkan device '\u00b2'"),
        ("9" * 5000, "there is no Vulkan device '999"),
        ("1.5", "there is no Vulkan device '1.5'"),
        ("intel", "there is no Vulkan device 'intel'; there are: 0 "),
        ("rtx", "'rtx' fits the devices 0, 1; name one by its index"),
        ("4", r"device 4 \(Old thing\) can't be used: no Vulkan 1.2"),
        ("old", r"device 4 \(Old thing\) can't be used: no Vulkan 1.2"),
    ],
)
def test_devices_that_cant_be_chosen(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        choose_devices(text, LISTED)


@given(st.text("0123456789,-calpu ", max_size=8) | st.text(max_size=8))
@examples(200)
def test_any_text_names_devices_or_is_refused(text: str) -> None:
    try:
        assert choose_devices(text, LISTED)
    except UsageError as error:
        assert str(error)


def test_without_a_device_the_reason_is_given() -> None:
    broken = DeviceList((), "libvulkan.so.1 is not there")
    for text in ("0", "numpy,0"):
        with pytest.raises(
            UsageError, match=r"no Vulkan device \(libvulkan.so.1 is not there\); --devices cpu"
        ):
            choose_devices(text, broken)
    with pytest.raises(UsageError, match=r"no Vulkan device \(no Vulkan driver found a device\)"):
        choose_devices("0", DeviceList((), ""))
    assert chosen("numpy,numpy", broken) == [None, None]


def test_no_driver_is_asked_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tplaunch.launcher.devices.job_words", lambda: ["/nonexistent"])
    assert select_devices("numpy, NumPy") == [DeviceChoice(None, "numpy")] * 2


# Cores.

GPU, ON_CPU = DeviceChoice(0, "gpu", on_cpu=False), DeviceChoice(1, "llvmpipe", on_cpu=True)


@given(
    st.lists(st.sampled_from([GPU, ON_CPU]), min_size=1, max_size=8),
    st.sets(st.integers(0, 255), min_size=1, max_size=40).map(sorted),
)
@examples(200)
def test_ranks_get_cores(choices: list[DeviceChoice], cores: list[int]) -> None:
    shares = rank_cores(choices, cores)
    assert len(shares) == len(choices)
    assert all(share and set(share) <= set(cores) for share in shares)
    used = [core for share in shares for core in share]
    if len(cores) >= len(choices):
        assert len(used) == len(set(used))  # disjoint
        assert sorted(used) == cores
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert used == [cores[rank % len(cores)] for rank in range(len(choices))]


def test_cores_by_example() -> None:
    assert rank_cores([GPU, GPU], [0, 1, 2, 3, 8]) == [[0, 1], [2, 3, 8]]
    assert rank_cores([ON_CPU, GPU], [0, 1, 2, 3]) == [[0, 1], [2, 3]]
    assert rank_cores([GPU] * 3, [4, 6]) == [[4], [6], [4]]


# Options.

CONFIG = config_of(Path("m.gguf"))


def changed(**changes: Any) -> RunConfig:
    return dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kv_type": "q8"}, "--kv-type q8: known are f16, f32"),
        ({"activations": "q4"}, "--activations q4: known are auto, f32, f16, q8"),
        ({"collective": "mpi"}, "--collective mpi: known are shared-memory, zmq, zmq-ring"),
        ({"all_reduce": "tree"}, "--all-reduce tree: known are auto, one-shot, two-phase"),
        ({"all_reduce": "two-phase", "collective": "zmq-ring"}, "zmq-ring has no phases; use --collective"),
        ({"context_length": 0}, "--context 0: at least 1 is needed"),
        ({"context_length": -5}, "--context -5: at least 1"),
        ({"context_length": 2**31}, "--context 2147483648: at most 2147483647 positions"),
        ({"max_rows": 0}, "--prefill-chunk 0: 1 to 512 rows are possible"),
        ({"max_rows": 513}, "--prefill-chunk 513: 1 to 512 rows"),
        ({"timeout_seconds": 0.0}, "--timeout 0.0: a positive number of seconds is needed"),
        ({"timeout_seconds": float("nan")}, "--timeout nan"),
        ({"timeout_seconds": float("inf")}, "--timeout inf"),
        ({"load_timeout_seconds": -1.0}, "--load-timeout -1.0: a positive number of seconds is needed"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        changed(**changes)


def test_options_at_the_edge_are_taken() -> None:
    for changes in ({"max_rows": 1}, {"max_rows": 512}, {"context_length": 1}, {"timeout_seconds": 0.001}):
        assert changed(**changes) != CONFIG


def test_rank_weights() -> None:
    assert changed().rank_weights(3) == (1.0, 1.0, 1.0)
    assert changed(tensor_split=(3.0, 1.0)).rank_weights(2) == (3.0, 1.0)
    with pytest.raises(UsageError, match="--tensor-split has 2 weights, but --devices names 3 ranks"):
        changed(tensor_split=(3.0, 1.0)).rank_weights(3)
    for num_ranks in (0, 9):
        with pytest.raises(UsageError, match=f"--devices numpy: {num_ranks} ranks; 1 to 8 are possible"):
            changed().rank_weights(num_ranks)


def test_lists_of_numbers() -> None:
    assert parse_numbers("3,1", "--tensor-split") == (3.0, 1.0)
    assert parse_numbers(" 0.5 , 1e2", "--tensor-split") == (0.5, 100.0)
    assert parse_tokens("1, 403,407") == [1, 403, 407]
    for text in ("", "3,", "3;1", "a", "3 1"):
        with pytest.raises(
            UsageError, match=f"--tensor-split {text}: numbers separated by commas are needed"
        ):
            parse_numbers(text, "--tensor-split")
    for text in ("", "1,,2", "1.0", "x" * 1000, "9" * 5000):
        with pytest.raises(
            UsageError, match="token ids separated by commas are needed, such as 1,403"
        ) as caught:
            parse_tokens(text)
        assert len(str(caught.value)) < 120


def test_the_collectives_that_the_launcher_offers_are_those_there_are() -> None:
    assert set(COLLECTIVES) == set(collectives.KINDS)


GENERATE = GenerateConfig(None, None, sampling=SamplingParams(), json=False)


def test_prompts_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="-p and --tokens both give a prompt; use one of them"):
        dataclasses.replace(GENERATE, prompt="", tokens=[])
    for count in (0, -3):
        assert main(["run", "model.gguf", "-p", "", "-n", str(count)]) == 2
        assert f"-n {count}: at least 1 token is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--devices=numpy", "absent.gguf"], "tplaunch: absent.gguf: no such file\n"),
        (
            ["run", "--devices=numpy", "--tensor-split=", "m"],
            "tplaunch: --tensor-split : numbers separated by",
        ),
        (["plan", "--tensor-split=1,x", "m"], "tplaunch: --tensor-split 1,x: numbers separated by commas"),
        (["plan", "--prefill-chunk=0", "m"], "tplaunch: --prefill-chunk 0: 1 to 512"),
        (["logits", "--tokens=a", "--out=x.npz", "m"], "tplaunch: --tokens a: token ids separated by"),
        (["m", "--temperature=-1"], "tplaunch: "),
        (["m", "-p", "a", "--tokens=1"], "tplaunch: -p and --tokens both give a prompt"),
        (["m", "-n", "0"], "tplaunch: -n 0: at least 1 token"),
        (["plan"], "tplaunch: plan takes a model file or a --shape; give one of them"),
        (["bench"], "tplaunch: bench takes a model file or a --shape; give one of them"),
        (["bench", "m", "--shape=tiny"], "tplaunch: bench takes a model file or a --shape"),
        (["bench", "m", "--type=q8_0"], "tplaunch: --type goes with --shape"),
        (["bench", "m", "--write-gguf=x"], "tplaunch: --write-gguf writes a --shape"),
        (["bench", "--shape=gpt-9"], "tplaunch: --shape gpt-9: known are tiny, llama-160m, llama-3.2-1b"),
        (["bench", "--shape=tiny", "--type=q9"], "tplaunch: --type q9: known are f32, f16, q4_0, "),
        (
            ["bench", "--shape=tiny", "--type=q4_k"],
            "tplaunch: --shape tiny --type q4_k: columns of a Q4_K row (64) is not a multiple of 256",
        ),
        (["bench", "--shape=tiny", "--write-gguf=/no/x"], "tplaunch: --write-gguf /no/x: there is no folder"),
        (["bench", "--shape=tiny", "--trace=/no/x"], "tplaunch: --trace /no/x: there is no folder"),
        (["bench", "--shape=tiny", "--trace=/tmp"], "tplaunch: --trace /tmp: that is a folder; name a file"),
        (["bench", "--shape=tiny", "--write-gguf=/tmp"], "tplaunch: --write-gguf /tmp: that is a folder"),
        (["logits", "--tokens=1", "--out=/tmp", "m"], "tplaunch: --out /tmp: that is a folder; name a file"),
        (
            ["logits", "--tokens=1", "--out=x"],
            "tplaunch: logits takes a model file; give its path, or --demo",
        ),
        (["bench-collectives", "--ranks=1"], "tplaunch: --ranks 1: 2 to 8 ranks are possible"),
        (["bench-collectives", "--sizes=2"], "tplaunch: --sizes 2: multiples of 4 up to 1024M"),
        (["bench-collectives", "--sizes=16G"], "tplaunch: --sizes 16G: multiples of 4"),
        (["bench", "--shape=tiny", "--repeat=0"], "tplaunch: --repeat 0: at least 1"),
        (["bench", "--shape=tiny", "--ranks=1,65"], "tplaunch: --ranks 65: 1 to 64 ranks"),
        (["bench", "--shape=tiny", "--ranks=two"], "tplaunch: --ranks two: counts separated by commas"),
        (["bench", "--shape=tiny", "--prefill=0"], "tplaunch: --prefill 0: 1 to"),
        (["bench", "--shape=tiny", "--at-context=-1"], "tplaunch: --at-context -1: 0 to"),
        (["bench", "--shape=tiny", "--prefill=none", "--decode=none"], "tplaunch: there is nothing to"),
        (
            ["tune", "--devices=numpy,numpy"],
            "tplaunch: --devices numpy,numpy: processors have nothing to choose",
        ),
        (
            ["tune", "m", "--shape=tiny"],
            "tplaunch: tune takes a model file or a --shape",
        ),
        (["tune", "--shape=tiny", "--type=q9"], "tplaunch: --type q9: known are"),
        (["plan", "--without=x87", "m"], "tplaunch: --without x87: known are int64, "),
        (["bench", "--shape=tiny", "--context=99", "--devices=numpy"], "tplaunch: --context 99: the longest"),
    ],
)
def test_wrong_options_end_with_one_line_and_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(sentence)
    assert printed.err.count("\n") == 1


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: tplaunch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["logits", "m"],
        ["m", "--collective=mpi"],
        ["m", "--context=x"],
        ["m", "--wrong"],
        ["m", "--submit-ahead", "--submit-then-wait"],
    ],
)
def test_unknown_options_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("tplaunch: ") and printed.endswith("--help\n") and printed.count("\n") == 1


def test_a_shape_can_be_planned_for_a_device_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shape=llama-3.3-70b", "--type=q4_0", "--devices=5", "--max-memory=5=48GiB"]
    assert main(["plan", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "steps of up to 256 rows" in " ".join(lines[:3])
    assert " ".join(lines[-2:]).endswith(
        "of the 131072 that the model was trained for: device 5 (5) has no room for more"
    )


def test_the_plan_is_shown_without_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_llama(tmp_path / "m.gguf")
    assert main(["plan", "--devices=numpy,numpy", "--tensor-split=3,1", str(tmp_path / "m.gguf")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("m.gguf: llama, 2 layers, 4 heads, 2 KV heads, 64 FFN columns, 48 tokens")
    assert [line.split()[:5] for line in lines[3:5]] == [
        ["0", "0..3", "0..1", "0..47", "0..35"],
        ["1", "none", "none", "48..63", "36..47"],
    ]
    assert [line.split()[0] for line in lines[2:8]] == ["rank", "0", "1"] * 2
    assert lines[8:] == ["largest context that fits: 128, all that the model was trained for"]


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ({}, "the model file holds no tokenizer; give the prompt as token ids with --tokens"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", ""] * 24,
          "tokenizer.ggml.scores": [0.0] * 7}, "tokenizer.ggml.scores holds 7 values for 48 tokens"),
    ],
)  # fmt: skip
def test_a_plan_says_that_a_run_will_take_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vocabulary: dict[str, Any], said: str
) -> None:
    write_llama(tmp_path / "m.gguf", vocabulary=vocabulary)
    assert main(["plan", "--devices=numpy", "--json", str(tmp_path / "m.gguf")]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"tplaunch: `tplaunch run` will take no text: {said}\n"
    assert json.loads(printed.out)["tokenizer_error"] == said


# Logs.


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "tplaunch"


def write_log(logs: RunLogs, rank: int, line: bytes) -> None:
    file = logs.output(rank)
    assert not isinstance(file, int)
    file.write(line)


def test_logs_of_a_failed_run_are_kept(state: Path) -> None:
    logs = RunLogs(verbose=False)
    for rank in range(2):
        write_log(logs, rank, b"rank %d\n" % rank)
    logs.close(keep=True)
    assert logs.path(1).parent.parent == state
    assert [logs.path(rank).read_bytes() for rank in range(2)] == [b"rank 0\n", b"rank 1\n"]
    assert logs.path(0).parent.stat().st_mode & 0o777 == 0o700


def test_logs_of_a_good_run_are_removed(state: Path) -> None:
    logs = RunLogs(verbose=False)
    write_log(logs, 0, b"fine\n")
    logs.close(keep=False)
    assert list(state.iterdir()) == []


def test_only_the_last_failed_runs_are_kept(state: Path) -> None:
    """A living run's logs stay, however old."""
    ended = 1 << 30  # larger than any process id
    names = [f"20260101-0000{number:02}-{ended}" for number in range(MAX_KEPT_RUNS + 5)]
    living = f"20250101-000000-{os.getpid()}"
    for name in (living, *names):
        (state / name).mkdir(parents=True)
        (state / name / "rank-0.log").touch()
    (state / "a file of the user").touch()
    logs = RunLogs(verbose=False)
    kept = {path.name for path in state.iterdir() if path.is_dir()}
    assert kept == {logs.path(0).parent.name, living, *names[-(MAX_KEPT_RUNS - 1) :]}
    assert (state / "a file of the user").exists()
    logs.close(keep=False)


def test_runs_side_by_side_have_logs_of_their_own(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = RunLogs(verbose=False), RunLogs(verbose=False)
    assert first.path(0) != second.path(0)
    second.close(keep=False)
    write_log(first, 0, b"x")
    first.close(keep=True)
    assert first.path(0).read_bytes() == b"x"


def test_logs_go_elsewhere_where_the_state_cant_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file, no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logs = RunLogs(verbose=False)
    write_log(logs, 0, b"x")
    logs.close(keep=True)
    assert logs.path(0).parent.parent == tmp_path
    assert logs.path(0).read_bytes() == b"x"


@pytest.mark.usefixtures("state")
def test_verbose_logs_are_shown_with_their_rank(capsys: pytest.CaptureFixture[str]) -> None:
    logs = RunLogs(verbose=True)
    output = logs.output(0)
    process = subprocess.Popen(
        [sys.executable, "-c", "print('one'); print('tw\u00f6')"],
        stdout=output,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},  # what a driver writes may be no UTF-8
    )
    logs.follow(0, process)
    assert process.wait() == 0
    logs.close(keep=True)
    assert capsys.readouterr().err == "[rank 0] one\n[rank 0] tw\ufffd\n"
    assert logs.path(0).read_bytes() == b"one\ntw\xf6\n"


# Progress.


def test_progress_prints_nothing_when_no_terminal_shows_it(capfd: pytest.CaptureFixture[str]) -> None:
    with show_progress((10, 10)) as report:
        for rank in (0, 1):
            report(rank, Progress(0, 10))
            report(rank, Progress(10, 10))
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_a_bar_for_every_rank_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress((10, 10)) as report:
        assert terminal.getvalue().count("0/10") == 2
        report(0, Progress(5, 10))
        report(1, Progress(10, 10))
        report(0, Progress(10, 10))
    assert "loading rank 0" in terminal.getvalue()
    assert "/?" not in terminal.getvalue()  # the total is known before the first report
    assert "loading rank 1" in terminal.getvalue()
