"""A joining host's copy of the model that changes under a run is told of; and sentences that fit messages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.models import write_llama
from tests.unit.test_hosts_links import wanted
from tplaunch.collectives.failures import (
    MAX_ERROR_BYTES,
    MAX_REASON_BYTES,
    CollectiveError,
    aborted,
    decode_error,
    encode_error,
)
from tplaunch.coordinator.gguf.paths import Stamp
from tplaunch.launcher.endings import HINTS, end_reason
from tplaunch.launcher.hosts.copies import CopySeen, seen
from tplaunch.launcher.hosts.descriptions import ELLIPSIS, MAX_SENTENCE, MAX_TEXT, cut
from tplaunch.launcher.hosts.fetching.store import ELSEWHERE, StoreError
from tplaunch.launcher.hosts.finder import FolderFinder, ModelError
from tplaunch.launcher.hosts.messages import Leave, RankEnded, decode_from_joiner, encode
from tplaunch.launcher.signals import Signalled


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy.gguf"
    write_llama(path)
    return path


def stamps_of(path: Path) -> tuple[Stamp, ...]:
    return FolderFinder([path], ()).find(wanted(path))


def test_a_copy_that_is_as_it_was_found(copy: Path) -> None:
    assert seen(7, stamps_of(copy)) == CopySeen(7)
    assert seen(7, ()) == CopySeen(7)  # of a model that was fetched


def test_a_copy_that_was_written_to(copy: Path) -> None:
    stamps = stamps_of(copy)
    with copy.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    os.utime(copy, ns=(0, 1))  # within one tick of the file system's clock it may be the same time
    assert seen(7, stamps) == CopySeen(7, f"{copy} was written to while it was in use", is_overwriting=True)


def test_a_copy_in_whose_place_another_lies(copy: Path) -> None:
    stamps = stamps_of(copy)
    other = copy.with_name("other.gguf")
    write_llama(other, seed=7)
    other.replace(copy)
    assert seen(7, stamps) == CopySeen(7, f"{copy} was replaced by another file while it was in use")


def test_no_sentence_of_a_joining_host_is_cut(tmp_path: Path) -> None:
    """The longest ones, with names as long as file systems take them."""
    name, folder = "n" * MAX_TEXT, Path("/", *["f" * 250] * 16)
    places = [folder / f"{number}.gguf" for number in range(20)]
    write_llama(tmp_path / "m.gguf")
    with pytest.raises(ModelError) as missing:
        FolderFinder((), places).find(wanted(tmp_path / "m.gguf"))
    longest_end = max((end_reason(-number) for number in HINTS), key=len)
    for sentence in (
        f"rank 511 ({name}) {longest_end}",
        str(missing.value).replace("the head runs m", f"the head runs {name}"),
        str(StoreError(f"{folder} can't be used for models: {os.strerror(36)}; {ELSEWHERE}")),
        f"it failed: {str(folder)!r}: {os.strerror(28)}; free some space, or name another folder",
    ):
        assert cut(sentence) == sentence


def test_a_sentence_that_is_too_long_is_cut_between_words() -> None:
    found = cut("word " * MAX_SENTENCE)
    assert found == "word " * ((MAX_SENTENCE - len(ELLIPSIS)) // 5 - 1) + "word" + ELLIPSIS
    assert len(cut("x" * 2 * MAX_SENTENCE)) == MAX_SENTENCE
    decode_from_joiner(encode(Leave(found)))
    with pytest.raises(ValueError, match=f"a text of {MAX_SENTENCE + 1} characters"):
        RankEnded(1, 1, "x" * (MAX_SENTENCE + 1))


def test_ranks_reasons_are_cut_between_words() -> None:
    long = "a word and another " * 100
    assert str(aborted(3, long)).endswith(" ...") and "anothe ..." not in str(aborted(3, long))
    assert len(str(aborted(3, "é" * 999)).encode()) <= len("rank 3 aborted: ") + MAX_REASON_BYTES
    told = encode_error(CollectiveError(long, 2))
    assert len(told) <= MAX_ERROR_BYTES
    assert str(decode_error(told)).endswith(" ...") and decode_error(told).rank == 2
    assert str(decode_error(encode_error(CollectiveError("short")))) == "short"


def test_signals_have_names() -> None:
    assert str(Signalled(signal.SIGTERM)) == "SIGTERM"
