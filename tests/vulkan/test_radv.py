"""AMD's compiler takes every kernel that a card is given, without a card, and spills no registers.

RADV offers a family's hardware that is not there (RADV_FORCE_FAMILY): it compiles to real machine code, and
says how many registers that needs (RADV_DEBUG=shaderstats).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import manifest_of
from tests.drivers import REPOSITORY, driver_variables, find_radv
from tests.vulkan.compile_kernels import MARK

# From GCN 5 to RDNA 4, and what of the kernels for particular features such a card is given.
FAMILIES = {
    "vega10": {"matvec_q8_0_wide", "matmul_q8_0_dot", "sum_norm"},
    "navi10": {"matvec_q8_0_wide", "sum_norm"},
    "navi21": {"matvec_q8_0_wide", "matmul_q8_0_dot", "sum_norm"},
    "navi31": {"matvec_q8_0_wide", "matmul_q8_0_dot", "matmul_q4_k_coop16", "sum_norm"},
    "gfx1201": {"matvec_q8_0_wide", "tiled_q4_k", "tiled_q8_0_64", "matmul_q8_0_dot", "sum_norm"},
}
STATISTIC = re.compile(r"^(Spilled SGPRs|Spilled VGPRs|Scratch size): (\d+)$", re.MULTILINE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kernel_compiles_and_spills_nothing(family: str) -> None:
    env = {
        **os.environ,
        **driver_variables(manifest_of(find_radv())),
        "RADV_FORCE_FAMILY": family,
        "RADV_DEBUG": "shaderstats,nocache",
    }
    command = [sys.executable, "-m", "tests.vulkan.compile_kernels"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    said = [part.split("\n", 1) for part in done.stderr.split(MARK)[1:]]
    assert said and done.returncode == 0, (
        f"{said[-1][0] if said else 'opening the device'} ended the process with {done.returncode}: "
        f"{done.stderr[-1000:]}"
    )
    assert family.upper() in done.stdout
    statistics = {name: STATISTIC.findall(text) for name, text in said[:-1]}
    assert statistics.keys() >= FAMILIES[family]
    assert [name for name, found in statistics.items() if len(found) < 3] == [], "no statistics of these"
    spilled = {name: found for name, found in statistics.items() if any(int(count) for _, count in found)}
    assert spilled == {}


def test_a_card_that_is_not_there_is_listed_and_not_used() -> None:
    """RADV crashes where it is asked how much memory such a card has left."""
    forced = {"RADV_FORCE_FAMILY": "gfx1201", **driver_variables(manifest_of(find_radv()))}
    command = [sys.executable, "-m", "tplaunch", "devices", "--json"]
    env = {**os.environ, **forced}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    (device,) = json.loads(done.stdout)["devices"]
    assert "RADV GFX1201" in device["name"] and not device["in_all"]
    assert device["unusable"].endswith("(RADV_FORCE_FAMILY)")
