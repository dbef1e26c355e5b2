"""Which files of a repository are the model: by quant, by name, all parts, never what lies beside."""

from __future__ import annotations

import pytest

from tplaunch.launcher.config import HubModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hub.files import choose_files, parse_hub_model

FILES = [
    "README.md",
    "imatrix.gguf",
    "mmproj-Model-F16.gguf",
    "Model-draft-Q4_K_M.gguf",
    "Model.imatrix.gguf",
    "Model-IQ4_0.gguf",
    "Model-Q2_K.gguf",
    "Model-Q4_0.gguf",
    "Model-Q4_K_M.gguf",
    "Model-q8_0.gguf",
    "Model-UD-Q4_K_XL.gguf",
    "mtp-Model-Q4_K_M.gguf",
]
PARTS = [f"BF16/Model-BF16-{number:05}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (HubModel("o/m"), "Model-Q4_K_M.gguf"),
        (HubModel("o/m", "q4_k_m"), "Model-Q4_K_M.gguf"),
        (HubModel("o/m", "Q8_0"), "Model-q8_0.gguf"),
        (HubModel("o/m", "Q4_0"), "Model-Q4_0.gguf"),
        (HubModel("o/m", "IQ4_0"), "Model-IQ4_0.gguf"),
        (HubModel("o/m", "UD-Q4_K_XL"), "Model-UD-Q4_K_XL.gguf"),
        (HubModel("o/m", file="mmproj-Model-F16.gguf"), "mmproj-Model-F16.gguf"),  # asked for by name
    ],
)
def test_one_file(model: HubModel, expected: str) -> None:
    assert choose_files([*FILES, *PARTS], model) == [expected]


def test_the_first_where_nothing_is_asked_and_there_is_no_q4_k_m() -> None:
    assert choose_files(["b-Q8_0.gguf", "a-Q5_0.gguf", "a-mmproj.gguf"], HubModel("o/m")) == ["a-Q5_0.gguf"]
    assert choose_files(["Whole.GGUF"], HubModel("o/m")) == ["Whole.GGUF"]


@pytest.mark.parametrize(
    "model", [HubModel("o/m", "bf16"), HubModel("o/m", file=PARTS[1]), HubModel("o/m", file=PARTS[0])]
)
def test_all_parts_in_order(model: HubModel) -> None:
    assert choose_files([*reversed(PARTS), *FILES], model) == PARTS


@pytest.mark.parametrize(
    ("names", "model", "sentence"),
    [
        (FILES, HubModel("o/m", "Q3_K"), "no file of quant Q3_K; there is IQ4_0, Q2_K, Q4_0, Q4_K_M, UD-"),
        (FILES, HubModel("o/m", "Q4_K"), "no file of quant Q4_K;"),
        (["a.gguf"], HubModel("o/m", "Q8_0"), "no file of quant Q8_0; there is a.gguf"),
        (FILES, HubModel("o/m", file="x.gguf"), "o/m has no such file; there is Model-IQ4_0.gguf"),
        (["x.bin"], HubModel("o/m", file="x.gguf"), "o/m has no such file, nor any other GGUF file"),
        (["m.safetensors"], HubModel("o/m"), "no model as GGUF file; look for a repository"),
        (["mmproj.gguf"], HubModel("o/m"), "o/m has no model as GGUF file"),
        ([], HubModel("o/m"), "o/m has no model as GGUF file"),
        (["../x.gguf", "/y.gguf", "a/../../z.gguf", "a\\b.gguf"], HubModel("o/m"), "has no model as GGUF"),
        (PARTS[:2], HubModel("o/m"), "is one of 3 parts, of which the repository has 2"),
        ([f"m{number:03}.gguf" for number in range(20)], HubModel("o/m", "Q8_0"), "m011.gguf and 8 more"),
    ],
)  # fmt: skip
def test_what_is_not_there(names: list[str], model: HubModel, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        choose_files(names, model)
    assert sentence in str(error.value)


@pytest.mark.parametrize("text", ["m", "/m", "o/", "o/m/x", "o/m:", "o/m:a b", ":Q4_0", "", "o/../m", "-o/m"])
def test_names_of_another_form(text: str) -> None:
    with pytest.raises(UsageError, match="a repository of Hugging Face is written org/name"):
        parse_hub_model(text)
