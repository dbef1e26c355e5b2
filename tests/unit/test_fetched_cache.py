"""The folder of fetched models has a bound: the longest unused go first, and what is in use never."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fetched_models import Fetched
from tests.models import make_spec, write_llama
from tplaunch.launcher.commands.join import JoinConfig
from tplaunch.launcher.declared import declared_values
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.hosts.fetching import cache
from tplaunch.launcher.hosts.fetching.cache import make_room, model_in_use
from tplaunch.launcher.hosts.fetching.store import Store
from tplaunch.launcher.words import parse_words

MEGABYTE = 1 << 20


def kept(folder: Path, number: int, num_megabytes: int = 1) -> Path:
    """A model that was used `number` hours after the epoch."""
    model = folder / f"{number:064x}"
    model.mkdir()
    (model / "part-00001.gguf").write_bytes(os.urandom(num_megabytes * MEGABYTE))
    os.utime(model, (3600 * number, 3600 * number))
    return model


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    models = [kept(tmp_path, number) for number in (3, 1, 2, 4)]
    other = tmp_path / "notes"
    other.mkdir()
    make_room(tmp_path, models[3], MEGABYTE, 4 * MEGABYTE + MEGABYTE // 2, 0)
    assert [model.exists() for model in models] == [True, False, True, True]
    make_room(tmp_path, models[3], MEGABYTE, 2 * MEGABYTE + MEGABYTE // 2, 0)
    assert [model.exists() for model in models] == [False, False, False, True]
    make_room(tmp_path, models[3], MEGABYTE, 0, 0)
    assert models[3].exists() and other.exists()  # the model that is fetched, and what is none


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    used, new = kept(tmp_path, 1), kept(tmp_path, 2)
    with model_in_use(used):
        assert used.stat().st_mtime > new.stat().st_mtime
        make_room(tmp_path, new, MEGABYTE, 0, 0)
        assert used.exists()
    make_room(tmp_path, new, MEGABYTE, 0, 0)
    assert not used.exists()


def test_a_full_disk_makes_old_models_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [kept(tmp_path, number) for number in (1, 2, 3)]

    class Usage:
        @property
        def free(self) -> int:
            return MEGABYTE * sum(not model.exists() for model in models)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    make_room(tmp_path, tmp_path / "own", MEGABYTE // 2, 1 << 40, MEGABYTE)
    assert [model.exists() for model in models] == [False, False, True]


def test_a_fetch_makes_room_and_keeps_what_it_uses(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", make_spec())
    fetched = Fetched.of(tmp_path / "m.gguf", tmp_path / "cache")
    fetched.cache.mkdir()
    old = kept(fetched.cache, 1)
    with fetched.server:
        share = fetched.shares(1)
        fetched.fetch(share)
        assert old.exists()  # there is room for both
        shutil.rmtree(fetched.paths[0].parent)
        with Store(fetched.cache, fetched.server.facts, most_bytes=0) as store:
            cache.make_room(fetched.cache, old, 1, 0, 0)
            assert store.folder.exists()  # it is in use
        fetched.most_bytes = 0
        fetched.fetch(share)
        assert not old.exists()
        fetched.check(share)


def test_the_bound_is_an_option() -> None:
    def parsed(*words: str) -> JoinConfig:
        options = parse_words(["join", "head", *words])
        return JoinConfig(head="head", **declared_values(JoinConfig, options))

    assert parsed().cache_bytes == 200 * 10**9
    assert parsed("--model-cache", "1GiB").cache_bytes == 1 << 30
    assert parsed("--model-cache", "0").cache_bytes == 0
    with pytest.raises(UsageError, match="--model-cache"):
        parsed("--model-cache", "much")
