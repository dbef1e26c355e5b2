"""A model's file to fetch from, and what a joining host with some of its ranks has afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.models import open_model
from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.coordinator.gguf.parts import GgufModel
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare, Stage, make_plan
from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.hosts.fetching.blocks import Block
from tplaunch.launcher.hosts.fetching.cache import USUAL_BYTES
from tplaunch.launcher.hosts.fetching.client import fetch_missing
from tplaunch.launcher.hosts.fetching.messages import AskBytes, Reply
from tplaunch.launcher.hosts.fetching.server import ModelServer
from tplaunch.launcher.hosts.fetching.store import Store
from tplaunch.launcher.hosts.fetching.wanted import from_integers, to_integers, wanted_blocks
from tplaunch.worker.weights.model_file import ModelFile, shard_rows

Ask = Callable[[AskBytes], tuple[Reply, Frame]]


@dataclass
class Fetched:
    """The head's model, its server, and the asks that were made of it."""

    model: GgufModel
    spec: ModelSpec
    server: ModelServer
    cache: Path
    num_asked: int = 0
    most_bytes: int = USUAL_BYTES  # of all models in the cache

    @staticmethod
    def of(path: Path, cache: Path) -> Fetched:
        model, spec = open_model(path)
        return Fetched(model, spec, ModelServer(model.origin.parts), cache)

    def shares(
        self, num_ranks: int, expert_split: str = "columns", stages: Sequence[Stage] = ()
    ) -> tuple[RankShare, ...]:
        return make_plan(self.spec, [1.0] * num_ranks, expert_split, stages)

    def ask(self, request: AskBytes) -> tuple[Reply, Frame]:
        self.num_asked += 1
        return self.server.answer(request)

    def wanted(self, shares: Sequence[RankShare]) -> Callable[[Store], list[Block]]:
        """Returns the wish as it comes over the wire."""
        numbers = to_integers(wanted_blocks(self.spec, shares, self.model.tensors))
        return lambda store: from_integers(numbers, store.grids)

    def fetch(
        self,
        shares: Sequence[RankShare],
        asks: Sequence[Ask] = (),
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Returns the bytes that came."""
        with Store(self.cache, self.server.facts, self.most_bytes) as store:
            streams, stopped = asks or [self.ask] * 2, threading.Event()
            return fetch_missing(store, self.wanted(shares), streams, on_progress, stopped)

    @property
    def paths(self) -> list[Path]:
        return Store(self.cache, self.server.facts).paths

    def check(self, shares: Sequence[RankShare]) -> None:
        """Asserts that ranks with these shares read from the cache what they read from the head's files."""
        parts = self.model.origin.parts
        cached = [FilePart(str(path), part.header_bytes) for path, part in zip(self.paths, parts)]
        there, here = ModelFile(parts), ModelFile(cached)
        assert here.model_hash == there.model_hash == self.model.origin.model_hash
        for share in shares:
            for shard in rank_shards(self.spec, share, self.model.tensors).values():
                tensor = self.model.tensors[shard.tensor]
                pairs = zip(shard_rows(there, shard, tensor), shard_rows(here, shard, tensor), strict=True)
                assert all(np.array_equal(one, other) for one, other in pairs), shard
        embeddings = self.model.tensors["token_embd.weight"]
        if any(share.begins for share in shares):
            assert np.array_equal(there.rows(embeddings), here.rows(embeddings))
