"""The exchange between hosts in whole runs: what it sends, what it waits, and that both are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import MakeHosts
from tests.hosts.joined import PROMPT, WAITS, started

RUN = ("-n", "16", "--temp", "0", "--ignore-eos", "--json", "--ledger", "-p", PROMPT)
NUM_SUMS, WIDTH = 10, 256  # of five layers; the demo model's rows of 160 columns are exchanged padded


@pytest.mark.parametrize(("wire", "most"), [("f32", 1.15), ("q8", 0.4)])
def test_the_ledger_tells_what_the_wire_took(
    hosts: MakeHosts, tmp_path: Path, wire: str, most: float
) -> None:
    head, joiners = started(hosts(2), tmp_path, *RUN, "--wire", wire, devices=("numpy",))
    assert head.wait(WAITS) == 0, head.text
    told: dict[str, Any] = json.loads(next(line for line in head.text.splitlines() if line.startswith("{")))
    ledger = told["ledger"]
    numbers = 4 * NUM_SUMS * WIDTH
    for rank, sent in zip(
        ledger["microseconds_by_rank"], ledger["sent_bytes_per_token_by_rank"], strict=True
    ):
        assert rank["wire"] > 0
        assert 0.25 * numbers < sent < most * numbers
    assert [joiner.wait(WAITS) for joiner in joiners] == [0]
