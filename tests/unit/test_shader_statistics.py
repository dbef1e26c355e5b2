"""Statistics of kernels, as RADV prints them: read, written as a table, and held against earlier ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.drivers import REPOSITORY
from tplaunch.shaders.analysis.statistics import (
    COLUMNS,
    MARK,
    Seen,
    Statistics,
    floor,
    objections,
    read,
    read_table,
    statistics_of,
    write_table,
)
from tplaunch.shaders.stats import FAMILIES

SAID = """
Compute Shader:
*** SHADER STATS ***
Driver pipeline hash: 17976587507729806274
SGPRs: 128
VGPRs: 12
Spilled SGPRs: 1
Spilled VGPRs: 2
Code size: 540
LDS size: 1024
Scratch size: 16
Subgroups per SIMD: 32
Latency: 1329
Inverse Throughput: 83
Pre-Sched SGPRs: 19
********************
"""
STATISTICS = Statistics(12, 128, 3, 16, 1024, 32, 1329, 83, 540)
GOOD = replace(STATISTICS, spills=0, scratch=0)


def test_numbers_are_read_by_kernel() -> None:
    said = f"a warning\n{MARK}one\n{SAID}{MARK}two\n{SAID}{MARK}\n"
    assert read(said) == {"one": STATISTICS, "two": STATISTICS}


def test_a_missing_number_is_named() -> None:
    with pytest.raises(ValueError, match="one: the driver gave no number for 'Latency'"):
        read(f"{MARK}one\n{SAID.replace('Latency', 'Delay')}{MARK}\n")


def test_a_table_is_read_as_it_was_written() -> None:
    other = replace(STATISTICS, waves=4)
    text = write_table("radv 25", {"a": {"x": STATISTICS, "y": other}, "b": {"y": other}})
    assert read_table(text) == (
        "radv 25",
        {"x": {"a": Seen(32, 83)}, "y": {"a": Seen(4, 83), "b": Seen(4, 83)}},
    )


def test_what_got_worse_is_told() -> None:
    seen = {"kernel": {"family": Seen(32, 83)}}
    assert objections("family", {"kernel": GOOD}, seen, same_driver=True) == []
    fewer = replace(GOOD, waves=16)
    assert objections("family", {"kernel": fewer}, seen, same_driver=False) == [
        "kernel holds 16 waves on family, which were 32"
    ]
    slower = {"kernel": replace(GOOD, inverse_throughput=86)}
    assert objections("family", slower, seen, same_driver=False) == []
    assert objections("family", slower, seen, same_driver=True) == [
        "kernel has an inverse throughput of 86 on family, which was 83"
    ]
    assert objections("family", {"kernel": statistics_of(SAID)}, seen, True)[0].startswith(
        "kernel spills 3 registers"
    )


@pytest.mark.parametrize(
    ("name", "family", "least"),
    [
        ("matvec_q8_0_wide", "gfx1201", 8),
        ("matvec2_q2_k_dot", "navi10", 4),
        ("tiled_q4_k", "navi21", 8),
        ("attention_f16_4", "navi31", 3),
        ("attention_matrices_f16_64", "navi31", 8),
        ("attention_combine", "navi31", 14),
        ("sum_norm", "vega10", 4),
        ("sum_norm", "gfx42", 0),
    ],
)
def test_each_kind_of_kernel_has_waves_that_no_table_can_take_away(
    name: str, family: str, least: int
) -> None:
    assert floor(name, family) == least
    seen = {name: {family: Seen(min(1, least), 83)}}
    assert objections(family, {name: replace(GOOD, waves=least)}, seen, same_driver=True) == []
    if least > 1:
        (objection,) = objections(family, {name: replace(GOOD, waves=least - 1)}, seen, same_driver=True)
        assert objection == f"{name} holds {least - 1} waves on {family}; its kind must hold {least}"


def test_the_table_keeps_to_the_floors() -> None:
    _, table = read_table((REPOSITORY / "tests/vulkan/kernel_statistics.txt").read_text())
    below = [
        (name, family)
        for name, families in table.items()
        for family, seen in families.items()
        if seen.waves < floor(name, family)
    ]
    assert below == [] and len(table) > 300


def test_every_family_of_the_tool_has_floors() -> None:
    assert COLUMNS.keys() == set(FAMILIES)


def test_a_kernel_that_the_table_lacks_is_told() -> None:
    assert objections("family", {"new": GOOD}, {}, same_driver=True) == ["new is not in the table for family"]
