"""AMD's compiler takes every kernel that a card is given, without a card, and makes it no worse than it was.

RADV offers a family's hardware that is not there (RADV_FORCE_FAMILY): it compiles to real machine code, and
says how many registers that needs (RADV_DEBUG=shaderstats). kernel_statistics.txt holds what was seen; `make
statistics` writes it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import manifest_of
from tests.drivers import REPOSITORY, driver_variables, find_radv, find_validation_layer
from tplaunch.shaders import stats
from tplaunch.shaders.execution_modes import KEEPS_SUBNORMALS, REUNITES_LANES, ROUNDS_TO_EVEN
from tplaunch.worker.vulkan.compiling import made_up_device
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipelines import Pipelines

TABLE = Path(__file__).with_name("kernel_statistics.txt")
# From GCN 5 to RDNA 4, and what of the kernels for particular features such a card is given.
FAMILIES = {
    "vega10": {"matvec_q8_0_wide", "matvec4_q8_0_dot", "sum_norm"},
    "navi10": {"matvec_q8_0_wide", "sum_norm"},
    "navi21": {"matvec_q8_0_wide", "matvec4_q8_0_dot", "sum_norm"},
    "navi31": {"matvec_q8_0_wide", "matvec4_q8_0_dot", "matrices_q4_k", "sum_norm"},
    "gfx1201": {"matvec_q8_0_wide", "matvec4_q8_0_dot", "sum_norm"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_compiles_as_well_as_before(family: str) -> None:
    found = stats.compile_family(family, driver=str(manifest_of(find_radv())))
    assert found.kernels.keys() >= FAMILIES[family]
    assert stats.differences([found], TABLE) == []


def test_kernels_are_valid_in_all_modes_that_such_a_card_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation layer takes them; modes are how numbers are rounded, and when lanes are united."""
    for variable, value in driver_variables(manifest_of(find_radv())).items():
        monkeypatch.setenv(variable, value)
    manifest_of(find_validation_layer())
    monkeypatch.setenv("RADV_FORCE_FAMILY", "navi31")
    context = Context(made_up_device().index, validate=True, only_compiles=True)
    assert context.modes == (KEEPS_SUBNORMALS, ROUNDS_TO_EVEN, REUNITES_LANES)
    assert context.matrices is not None
    made = Pipelines(context)
    for name in ("matrices_q8_0_64", "attention_matrices_f16_64", "sum_norm", "rope_cache_f16"):
        assert made[name]
    made.close()
    context.instance.check_validation()
    context.close()


def test_the_families_are_those_of_the_tool() -> None:
    assert tuple(FAMILIES) == stats.FAMILIES


def test_an_unknown_family_is_answered_with_what_the_driver_says() -> None:
    with pytest.raises(stats.StatsError, match=r"opening the device for gfx42 ended by SIGABRT: .*gfx42"):
        stats.compile_family("gfx42", driver=str(manifest_of(find_radv())))


def test_the_tool_says_what_it_saw() -> None:
    tool = [sys.executable, "-m", "tplaunch.shaders.stats", f"--driver={manifest_of(find_radv())}"]
    command = [*tool, "--family=gfx1201", "activate", "sum_norm"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["activate", "sum_norm"]
    assert max(map(len, shown.splitlines())) <= 80
    printed = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    kernels = json.loads(printed.stdout)["families"]["gfx1201"]["kernels"]
    assert kernels["activate"]["spills"] == 0 < kernels["activate"]["waves"]


def test_the_tool_compiles_modules_of_other_programs() -> None:
    """One that this test changes: its name is all that the tool knows of it."""
    module = REPOSITORY / "shaders/spv/activate.spv"
    found = stats.compile_family("gfx1201", (), [f"--module={module}"], str(manifest_of(find_radv())))
    assert found.kernels.keys() == {"activate"}


def test_a_card_that_is_not_there_is_listed_and_not_used() -> None:
    """RADV crashes where it is asked how much memory such a card has left."""
    forced = {"RADV_FORCE_FAMILY": "gfx1201", **driver_variables(manifest_of(find_radv()))}
    command = [sys.executable, "-m", "tplaunch", "devices", "--json"]
    env = {**os.environ, **forced}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    (device,) = json.loads(done.stdout)["devices"]
    assert "RADV GFX1201" in device["name"] and not device["in_all"]
    assert device["unusable"].endswith("(RADV_FORCE_FAMILY)")
