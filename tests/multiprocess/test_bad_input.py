"""Bad input is one clear line on standard error and exit code 2, before any worker starts."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.command_line import CommandLine, complaints

GENERATE = ("-p", "Once", "-n", "3")


def check_refusal(tplaunch: CommandLine, *options: str | Path, says: str, devices: str = "numpy") -> None:
    """The command fails with exit code 2 and one line that says `says`; no log means no worker."""
    result = tplaunch("--devices", devices, *options)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("tplaunch: ") and says in lines[0], lines[0]
    assert result.stdout == ""
    assert not list((tplaunch.folder / "state").rglob("*.log"))


@pytest.fixture
def model(shared_dir: Path) -> Path:
    return shared_dir / "models/stories260K-f32.gguf"


def test_no_such_file(tplaunch: CommandLine) -> None:
    check_refusal(tplaunch, "missing.gguf", *GENERATE, says="missing.gguf: no such file")


def test_a_folder(tplaunch: CommandLine, tmp_path: Path) -> None:
    check_refusal(tplaunch, tmp_path, *GENERATE, says="is not a file")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"Once upon a time there was a text file.", b"\0" * 4096])
def test_not_a_gguf(tplaunch: CommandLine, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    check_refusal(tplaunch, path, *GENERATE, says="is not a GGUF file")


@pytest.mark.parametrize("length", [30, 3000, 20000, -1])
def test_truncated(tplaunch: CommandLine, model: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes()[:length])
    check_refusal(tplaunch, path, *GENERATE, says="truncated")


@pytest.mark.parametrize("seed", range(6))
def test_damaged_anywhere(tplaunch: CommandLine, model: Path, tmp_path: Path, seed: int) -> None:
    """Flipped bytes give text or a sentence, in whatever process they are found."""
    random = np.random.default_rng(seed)
    data = np.frombuffer(model.read_bytes(), np.uint8).copy()
    end = (20_000, data.size)[seed % 2]  # the header, or the weights
    data[random.integers(24, end, 2 + seed)] ^= random.integers(1, 256, 2 + seed, dtype=np.uint8)
    path = tmp_path / "model.gguf"
    path.write_bytes(data.tobytes())
    result = tplaunch("--devices", "0,0", path, *GENERATE)
    assert result.returncode in (0, 1, 2)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr
    assert len(complaints(result.stderr)) == (result.returncode != 0)


def test_weights_that_are_no_numbers(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-64 * 4 :] = b"\xff" * 256  # the last tensor's last row is NaN
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    result = tplaunch("--devices", "numpy", path, *GENERATE)
    assert result.returncode == 1
    assert "logits are NaN" in result.stderr and "Traceback" not in result.stderr


def test_big_endian(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + model.read_bytes()[8:])
    check_refusal(tplaunch, path, *GENERATE, says="big-endian")


def write_metadata(path: Path, architecture: str, **numbers: int) -> Path:
    """A file without tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, number in numbers.items():
        writer.add_uint16(key.replace("_", "."), number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_only(tplaunch: CommandLine, tmp_path: Path) -> None:
    """As files with a vocabulary alone are."""
    path = write_metadata(tmp_path / "vocabulary.gguf", "llama")
    check_refusal(
        tplaunch, path, *GENERATE, says=f"{path} holds no tensors, only metadata: there is nothing to run"
    )


def test_a_part_without_the_others(tplaunch: CommandLine, tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "m-00001-of-00002.gguf", "llama", split_no=0, split_count=2)
    check_refusal(
        tplaunch, path, *GENERATE, says="m-00002-of-00002.gguf is missing: the model is split over 2"
    )


def write_gguf(path: Path, architecture: str, weight_type: gguf.GGMLQuantizationType | None = None) -> Path:
    """A file with one tensor, of float32 or of another type."""
    writer = gguf.GGUFWriter(path, architecture)
    if weight_type is None:
        writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    else:
        rows = np.zeros((4, gguf.GGML_QUANT_SIZES[weight_type][1]), np.uint8)
        writer.add_tensor("token_embd.weight", rows, raw_dtype=weight_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_unsupported_architecture(tplaunch: CommandLine, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "rwkv7")
    check_refusal(
        tplaunch, path, *GENERATE, says="the architecture 'rwkv7' is not supported; supported: baichuan, "
    )


def test_an_unsupported_weight_type(tplaunch: CommandLine, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama", gguf.GGMLQuantizationType.Q8_K)
    check_refusal(
        tplaunch, path, *GENERATE, says="'token_embd.weight' is of type Q8_K, which is not supported"
    )


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ("7", "there is no Vulkan device '7'; there are: 0 ("),
        ("0,-1", "there is no Vulkan device '-1'"),
        ("Voodoo", "there is no Vulkan device 'Voodoo'"),
        ("0,,0", "separated by commas"),
        ("0,0,0,0,0,0,0,0,0", "9 ranks; 1 to 8 are possible"),
    ],
)
def test_devices(tplaunch: CommandLine, model: Path, devices: str, says: str) -> None:
    check_refusal(tplaunch, model, *GENERATE, devices=devices, says=says)


def test_no_driver(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    """Without any Vulkan driver the message names the way out."""
    nothing = {
        "VK_DRIVER_FILES": str(tmp_path / "none.json"),
        "VK_ICD_FILENAMES": str(tmp_path / "none.json"),
    }
    result = tplaunch("--devices", "0", model, *GENERATE, env=nothing)
    assert result.returncode == 2
    assert "there is no Vulkan device" in result.stderr and "--devices cpu" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("devices", ["0", "numpy,0"])
def test_a_plan_that_does_not_fit(tplaunch: CommandLine, model: Path, devices: str) -> None:
    options = (model, *GENERATE, "--context", "2000000000")
    check_refusal(tplaunch, *options, devices=devices, says="the plan does not fit: ")


def test_a_prompt_longer_than_the_context(tplaunch: CommandLine, model: Path) -> None:
    tokens = ",".join(["5"] * 17)
    check_refusal(
        tplaunch,
        model,
        "--tokens",
        tokens,
        "--context",
        "16",
        says="the context of 16 has room for 15: 2 too many",
    )
    check_refusal(tplaunch, model, "--tokens", tokens, "--context", "17", says="room for 16: 1 too many")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tokens", "5,512"), "the prompt has the token 512; this model has 0 to 511"),
        (("--tokens", "5,-1"), "the prompt has the token -1"),
        (("--tokens", "five"), "token ids separated by commas"),
        (("--tokens", "5", "-p", "Once"), "-p and --tokens"),
        (("-p", "Once", "--kv-type", "f8"), "argument --kv-type: invalid choice: 'f8'"),
        (("-p", "Once", "--wrong"), "unrecognized arguments: --wrong"),
        (("-p", "Once", "-n", "many"), "argument -n/--max-tokens: invalid int value: 'many'"),
        (("-p", "Once", "--tensor-split", "1,2"), "--tensor-split has 2 weights"),
        (("-p", "Once", "--tensor-split", "0"), "all rank weights are 0"),
        (("-p", "Once", "--tensor-split", "-1"), "a rank weight of -1.0"),
        (("-p", "Once", "--tensor-split", "nan"), "a rank weight of nan"),
        (("-p", "Once", "--temperature", "-1"), "temperature"),
        (("-p", "Once", "--top-p", "2"), "top_p"),
        (("-p", "Once", "-n", "0"), "-n 0"),
        (("-p", "Once", "--context", "0"), "--context 0"),
        (("-p", "Once", "--timeout", "nan"), "--timeout nan"),
        (("-p", "Once", "--prefill-chunk", "1000"), "--prefill-chunk 1000"),
    ],
)
def test_options(tplaunch: CommandLine, model: Path, options: tuple[str, ...], says: str) -> None:
    check_refusal(tplaunch, model, *options, says=says)


def test_tokens_that_the_model_does_not_have(tplaunch: CommandLine, model: Path) -> None:
    result = tplaunch("--devices", "numpy", model, *GENERATE, "--logit-bias", "512+1")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.endswith("tplaunch: logit_bias must be tokens from 0 to 511, not 512\n")


def test_logits_to_nowhere(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "logits.npz"
    result = tplaunch("logits", "--devices", "numpy", model, "--tokens", "5", "--out", out)
    assert result.returncode == 2 and "there is no folder" in result.stderr


def test_plan_needs_no_driver(tplaunch: CommandLine, model: Path, tmp_path: Path) -> None:
    """The plan comes from the file's metadata alone."""
    nothing = {
        "VK_DRIVER_FILES": str(tmp_path / "none.json"),
        "VK_ICD_FILENAMES": str(tmp_path / "none.json"),
    }
    options = ("plan", "--devices", "0,1", "--tensor-split", "3,1", model)
    table = tplaunch(*options, env=nothing, check=True).stdout
    assert "rank" in table and "MiB" in table
    ranks = json.loads(tplaunch(*options, "--json", env=nothing, check=True).stdout)["ranks"]
    assert [rank["kv_heads"][0] for rank in ranks] == [[0, 3], [3, 4]]  # of the first layer
    assert [rank["ffn_columns"][0] for rank in ranks] == [[0, 129], [129, 172]]
    assert all(rank["total_bytes"] > rank["weight_bytes"] > 0 for rank in ranks)


def test_devices_lists_what_matters(tplaunch: CommandLine) -> None:
    devices = json.loads(tplaunch("devices", "--json", check=True).stdout)["devices"]
    assert [device["index"] for device in devices] == list(range(len(devices))) and devices
    wanted = {"name", "type", "driver", "memory_bytes", "external_host_memory", "integer_dot_product"}
    wanted |= {"integer_dot_accelerated"}
    assert wanted | {"float16", "cooperative_matrix", "min_subgroup_size", "unusable"} <= devices[0].keys()
    table = tplaunch("devices", check=True).stdout
    assert devices[0]["name"] in table and "subgroups" in table and "`tplaunch tune`" in table
