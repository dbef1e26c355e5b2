"""Network cards have speeds, as the kernel says; and a person names models on a joining host."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.models import write_llama
from tests.split_files import Split
from tplaunch.coordinator.gguf.parts import read_model
from tplaunch.coordinator.gguf.paths import Stamp
from tplaunch.launcher.hosts import link_modes
from tplaunch.launcher.hosts.fetching.server import ModelServer
from tplaunch.launcher.hosts.finder import FolderFinder, ModelError
from tplaunch.launcher.hosts.link_modes import HEADER, NUM_WORDS_FIELD, fastest_mode
from tplaunch.launcher.hosts.messages import WantedModel

NUM_WORDS = 3  # of a mask of link modes


@pytest.mark.parametrize(
    ("bits", "speed"),
    [((0, 1, 2, 3, 5), 1000), ((5, 47), 2500), ((12, 36), 100_000), ((6, 7, 9), 0), ((), 0)],
)
def test_the_fastest_mode_that_a_card_has(
    bits: tuple[int, ...], speed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_probe: socket.socket, interface: str, num_words: int) -> bytes:
        assert interface == "eth7" and num_words in (0, NUM_WORDS)
        fields = [0] * 21
        fields[NUM_WORDS_FIELD] = num_words or -NUM_WORDS
        supported = sum(1 << bit for bit in bits).to_bytes(4 * NUM_WORDS, "little")
        return HEADER.pack(*fields) + supported + bytes(8 * NUM_WORDS)

    monkeypatch.setattr(link_modes, "_ask", ask)
    assert fastest_mode("eth7") == speed


def test_interfaces_that_know_no_modes() -> None:
    assert fastest_mode("lo") == fastest_mode("no-such-one") == fastest_mode("x" * 99) == 0


def wanted(path: Path) -> WantedModel:
    with ModelServer(read_model(path).origin.parts) as server:
        facts = server.facts
    return WantedModel("m", facts.model_hash, facts.parts, 1.0)


def test_a_model_in_parts_is_named_by_any_of_them(tmp_path: Path) -> None:
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    there, here = (Split(tmp_path / name, 3) for name in ("there", "here"))
    asked = wanted(there.path(0))
    stamps = tuple(Stamp.of(str(here.path(number))) for number in range(3))
    assert FolderFinder([here.path(1)], ()).find(asked) == stamps
    here.path(2).unlink()
    with pytest.raises(ModelError, match="1 of the 3 files of its model is not here"):
        FolderFinder([here.path(1)], ()).find(asked)


def test_another_model_is_named_in_vain(tmp_path: Path) -> None:
    write_llama(tmp_path / "one.gguf")
    write_llama(tmp_path / "other.gguf", seed=7)  # with the same header, and so the same hash
    asked = wanted(tmp_path / "one.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "one.gguf").read_bytes()[:-4])
    with (tmp_path / "sparse.gguf").open("wb") as sparse:  # as a fetch of some other tensors leaves one
        sparse.write((tmp_path / "one.gguf").read_bytes()[: asked.parts[0].header_bytes])
        sparse.truncate(asked.parts[0].num_bytes)
    for name in ("cut", "other", "sparse"):
        with pytest.raises(ModelError, match=rf"nothing with the same hash was found at .*{name}\.gguf"):
            FolderFinder([tmp_path / f"{name}.gguf"], ()).find(asked)
    assert FolderFinder([tmp_path / "cut.gguf", tmp_path / "one.gguf"], ()).find(asked) == (
        Stamp.of(str(tmp_path / "one.gguf")),
    )
