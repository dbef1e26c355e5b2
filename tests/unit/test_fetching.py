"""Models that a joining host fetches from the head: what is fetched, kept, resumed, and refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fetched_models import Fetched
from tests.latent_model import latent_spec, write_latent
from tests.models import examples, make_spec, write_llama
from tests.recurrent_models import delta, lfm2, mamba2
from tests.split_files import Split
from tplaunch.coordinator.gguf.origin import model_hash
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, Span, Stage
from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.launcher.hosts.descriptions import WantedPart
from tplaunch.launcher.hosts.fetching import messages, store
from tplaunch.launcher.hosts.fetching.blocks import BLOCK_BYTES, MAX_STRIPS, Block, Grid, Strips
from tplaunch.launcher.hosts.fetching.client import MAX_TRIES, FetchError
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.messages import AskBytes, BytesFollow, Refused, Reply
from tplaunch.launcher.hosts.fetching.store import Store, StoreError
from tplaunch.launcher.hosts.fetching.wanted import MAX_BLOCKS, from_integers

# Wide enough that a rank's columns are some of a row's tiles.
WIDE = make_spec(
    embedding_length=512, num_heads=8, num_kv_heads=4, key_length=64, value_length=64,
    feed_forward_length=1536, vocabulary_size=1024, num_layers=2, rope={"dimension": 64},
)  # fmt: skip
TYPES = {"ffn_down.weight": "Q8_0", "attn_q.weight": "Q4_0", "attn_output.weight": "Q8_0"}


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Fetched]:
    write_llama(tmp_path / "m.gguf", WIDE, TYPES)
    fetched = Fetched.of(tmp_path / "m.gguf", tmp_path / "cache")
    with fetched.server:
        yield fetched


def test_a_rank_gets_its_part_and_no_more(wide: Fetched) -> None:
    share = wide.shares(4)[1]
    size = wide.server.facts.parts[0].num_bytes
    embeddings = wide.model.tensors["token_embd.weight"].nbytes
    held = (size - embeddings) // 4
    steps: list[tuple[int, int]] = []
    num_bytes = wide.fetch([share], on_progress=lambda done, total: steps.append((done, total)))
    assert held + embeddings < num_bytes < 1.25 * held + embeddings
    assert steps[-1] == (num_bytes, num_bytes)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    wide.check([share])
    (path,) = wide.paths
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 < 0.8 * size  # the rest are holes
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_second_run_fetches_nothing(wide: Fetched) -> None:
    shares = wide.shares(2)[1:]
    assert wide.fetch(shares) > 0
    asked = wide.num_asked
    assert wide.fetch(shares) == 0
    assert wide.num_asked == asked
    wide.check(shares)


def test_the_disk_takes_bytes_while_others_come(wide: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fetch of many gigabytes ends with a long wait for the disk."""
    saved: list[int] = []
    monkeypatch.setattr(store, "SAVE_BYTES", 1 << 20)
    monkeypatch.setattr(os, "fdatasync", saved.append)
    num_bytes = wide.fetch(wide.shares(2)[1:])
    assert num_bytes // (2 * (1 << 20)) <= len(saved) <= num_bytes // (1 << 20)


def test_another_share_fetches_what_is_missing(wide: Fetched) -> None:
    first, second = wide.shares(2)
    num_bytes = wide.fetch([second])
    rest = wide.fetch([first, second])
    wide.check([first, second])
    data = sum(tensor.nbytes for tensor in wide.model.tensors.values())
    assert num_bytes + rest == data
    assert wide.fetch(wide.shares(3)) == 0
    assert wide.paths[0].read_bytes()[-1000:] == Path(wide.model.origin.parts[0].path).read_bytes()[-1000:]


def test_a_fetch_that_broke_off_goes_on(wide: Fetched) -> None:
    shares = wide.shares(2)[1:]
    last = threading.Event()

    def breaks(request: AskBytes) -> tuple[Reply, Frame]:
        if wide.num_asked > 6:
            last.set()
            raise FetchError("the head does not answer")
        return wide.ask(request)

    with pytest.raises(FetchError, match="does not answer"):
        wide.fetch(shares, [breaks, breaks])
    assert last.is_set()
    asked = wide.num_asked
    with Store(wide.cache, wide.server.facts) as there:
        there.open_tensors()
        missing = there.missing(wide.wanted(shares)(there))
        wide.num_asked = 0
    wide.fetch(shares)
    assert wide.num_asked == len(missing) > 0
    assert asked + len(missing) <= wide.num_asked + asked
    wide.check(shares)


def test_what_was_damaged_on_the_disk_comes_again(wide: Fetched) -> None:
    shares = wide.shares(2)[1:]
    wide.fetch(shares)
    tensor = wide.model.tensors["token_embd.weight"]
    with wide.paths[0].open("r+b") as file:
        file.seek(tensor.offset + 100)
        file.write(b"damage")
    wide.num_asked = 0
    assert 0 < wide.fetch(shares) <= BLOCK_BYTES
    assert wide.num_asked == 1
    wide.check(shares)


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_journal_costs_its_last_blocks(wide: Fetched, cut: int) -> None:
    shares = wide.shares(2)[1:]
    num_bytes = wide.fetch(shares)
    journal = wide.paths[0].with_name("journal")
    os.truncate(journal, journal.stat().st_size - cut)
    assert wide.fetch(shares) < num_bytes / 2
    wide.check(shares)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"\0" * 4096])
def test_a_journal_that_is_none_costs_everything(wide: Fetched, content: bytes) -> None:
    shares = wide.shares(2)[1:]
    num_bytes = wide.fetch(shares)
    wide.paths[0].with_name("journal").write_bytes(content)
    assert wide.fetch(shares) == num_bytes
    wide.check(shares)


def test_a_file_of_another_size_or_header_is_made_anew(wide: Fetched) -> None:
    shares = wide.shares(2)[1:]
    num_bytes = wide.fetch(shares)
    os.truncate(wide.paths[0], 1000)
    assert wide.fetch(shares) == num_bytes
    with wide.paths[0].open("r+b") as file:
        file.write(b"GGML")
    assert wide.fetch(shares) == num_bytes
    wide.check(shares)


def test_a_block_that_comes_damaged_is_asked_for_again(wide: Fetched) -> None:
    damaged: set[AskBytes] = set()

    def noisy(request: AskBytes) -> tuple[Reply, Frame]:
        reply, data = wide.ask(request)
        if request in damaged:
            return reply, data
        damaged.add(request)
        return reply, bytes(data[:-1]) + bytes([data[-1] ^ 1])

    shares = wide.shares(2)[1:]
    wide.fetch(shares, [noisy, noisy])
    wide.check(shares)
    assert wide.num_asked == 2 * len(damaged)


@pytest.mark.parametrize("cut", [0, 1])
def test_a_link_that_damages_everything_is_named(wide: Fetched, cut: int) -> None:
    def broken(request: AskBytes) -> tuple[Reply, Frame]:
        reply, data = wide.ask(request)
        return reply, data[cut:] if cut else bytes(len(data))

    with pytest.raises(FetchError, match=f"came damaged {MAX_TRIES} times"):
        wide.fetch(wide.shares(2), [broken])
    assert wide.num_asked == MAX_TRIES


def test_a_model_that_changes_on_the_head_is_refused(wide: Fetched) -> None:
    path = Path(wide.model.origin.parts[0].path)

    def change(request: AskBytes) -> tuple[Reply, Frame]:
        if wide.num_asked == 5:
            os.utime(path, ns=(1, 1))
        return wide.ask(request)

    with pytest.raises(FetchError, match=r"refused a part of the tensor '.*': m.gguf changed while"):
        wide.fetch(wide.shares(2), [change])


def test_another_header_than_the_models_is_refused(wide: Fetched) -> None:
    part = wide.server.facts.parts[0]
    other = WantedPart(part.header_bytes, part.num_bytes, "0" * 64)
    facts = ModelFacts(model_hash([other.file_hash]), (other,))
    with Store(wide.cache, facts) as there, pytest.raises(StoreError, match="another header"):
        there.begin([bytes(part.header_bytes)])


def test_a_full_disk_is_said_before(wide: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(wide.model.origin.parts[0].path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300 << 20))
    monkeypatch.setattr(store, "SPARE_BYTES", 299 << 20)
    with pytest.raises(StoreError, match=r"up to \d+ MB, .* only 315 MB are free: make room"):
        wide.fetch(wide.shares(2))
    assert wide.paths[0].stat().st_blocks * 512 < 1 << 20


def test_the_folder_of_another_model_is_not_touched(wide: Fetched, tmp_path: Path) -> None:
    folder = wide.paths[0].parent
    folder.parent.mkdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="not a folder of this user"):
        wide.fetch(wide.shares(2))
    folder.unlink()
    folder.mkdir(mode=0o700)
    wide.paths[0].symlink_to(wide.model.origin.parts[0].path)
    with pytest.raises(StoreError, match=r"can't be used for models: .*; name another folder by XDG_CACHE"):
        wide.fetch(wide.shares(2))
    wide.paths[0].unlink()
    os.link(wide.model.origin.parts[0].path, wide.paths[0])
    with pytest.raises(StoreError, match="can't be used for models"):
        wide.fetch(wide.shares(2))


def test_one_process_at_a_time_writes(wide: Fetched) -> None:
    with Store(wide.cache, wide.server.facts), pytest.raises(BlockingIOError):
        Store(wide.cache, wide.server.facts).__enter__()
    assert wide.fetch(wide.shares(1)) > 0


def experts() -> ModelSpec:
    layer = make_spec().layers[0]
    mixture = ExpertsSpec(count=24, used=2, length=96, normalised=True)
    layers = (LayerSpec(layer.attention, None, experts=mixture),) * 2
    return dataclasses.replace(make_spec(), layers=layers)


@pytest.mark.parametrize("split", EXPERT_SPLITS)
def test_experts(tmp_path: Path, split: str) -> None:
    write_llama(tmp_path / "m.gguf", experts(), {"ffn_up_exps.weight": "Q8_0"})
    fetched = Fetched.of(tmp_path / "m.gguf", tmp_path / "cache")
    with fetched.server:
        for share in fetched.shares(3, split)[::-1]:
            fetched.fetch([share])
            fetched.check([share])


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
@pytest.mark.parametrize("kind", ["tied", "latent", "lfm2", "mamba2", "delta"])
def test_every_kind_of_layer(tmp_path: Path, kind: str, num_ranks: int) -> None:
    path = tmp_path / "m.gguf"
    if kind == "tied":
        write_llama(path, WIDE, TYPES, tied=True, biases=True, scales=True)
    elif kind == "latent":
        write_latent(path, latent_spec())
    else:
        makers = {"lfm2": lfm2, "mamba2": mamba2, "delta": lambda: delta("qwen3next")}
        makers[kind]().write(path)
    fetched = Fetched.of(path, tmp_path / "cache")
    with fetched.server:
        for share in fetched.shares(num_ranks)[::-1]:
            fetched.fetch([share])
            fetched.check([share])


def test_a_later_stage_needs_no_embeddings(wide: Fetched) -> None:
    stages = (Stage(Span(0, 1), Span(0, 1)), Stage(Span(1, 2), Span(1, 2)))
    first, second = wide.shares(2, stages=stages)
    embeddings = wide.model.tensors["token_embd.weight"].nbytes
    num_bytes = wide.fetch([second])
    wide.check([second])
    assert wide.fetch([first]) > embeddings
    wide.check([first, second])
    assert num_bytes < sum(tensor.nbytes for tensor in wide.model.tensors.values()) - embeddings


def test_a_model_in_several_files(tmp_path: Path) -> None:
    split = Split(tmp_path, 3)
    fetched = Fetched.of(split.path(1), tmp_path / "cache")
    with fetched.server:
        shares = fetched.shares(2)[1:]
        assert len(fetched.paths) == 3
        fetched.fetch(shares)
        fetched.check(shares)
        assert fetched.fetch(shares) == 0


spans = st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda ends: Span(min(ends), max(ends)))


@examples(60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.lists(st.tuples(spans, spans), max_size=4), st.data())
def test_blocks_cover_what_is_wanted_once(
    num_rows: int, row_bytes: int, wanted: list[tuple[Span, Span]], data: st.DataObject
) -> None:
    grid = Grid(0, 1000, num_rows, row_bytes)
    mask, asked = grid.no_cells(), np.zeros((num_rows, row_bytes), np.bool_)
    for rows, columns in wanted:
        cut = Block(
            0,
            Span(min(rows.start, num_rows), min(rows.stop, num_rows)),
            Span(min(columns.start, row_bytes), min(columns.stop, row_bytes)),
        )
        grid.mark(mask, cut)
        asked[cut.rows.start : cut.rows.stop, cut.bytes.start : cut.bytes.stop] = True
    count, marked = np.zeros(num_rows * row_bytes, np.int8), grid.no_cells()
    for block in grid.blocks(0, mask):
        strips = grid.strips(block)
        assert grid.holds(block)
        assert strips.num_bytes <= BLOCK_BYTES and strips.count <= MAX_STRIPS
        for offset in strips.offsets:
            count[offset - 1000 : offset - 1000 + strips.width] += 1
        grid.mark_whole(marked, block)
    assert count.max(initial=0) <= 1
    assert np.all(count.reshape(asked.shape)[asked])
    assert np.array_equal(marked, mask)


def test_strips_that_cant_be() -> None:
    for fields in ((-1, 0, 1, 1, 1), (0, -1, 1, 1, 1), (0, 0, 0, 1, 1), (0, 0, 1, 1, 0), (0, 0, 9, 8, 2)):
        with pytest.raises(ValueError, match="Strips"):
            Strips(*fields)


@pytest.mark.parametrize(
    "fields",
    [
        (1, 0, 1, 1, 1),
        (-1, 0, 1, 1, 1),
        (0, -5, 1, 1, 1),
        (0, 1 << 40, 1, 1, 1),
        (0, 0, 1, 1 << 60, 2),
        (0, 0, -1, 1, -1),
        (0, 0, 10, 5, 2),
        (0, 0, 0, 1, 1 << 60),
        (0, 0, 1, 1, 4 << 20),  # as many bytes as an answer may have, each a read of its own
        (0, 0, 1, 1, MAX_STRIPS + 1),
    ],
)
def test_the_head_gives_nothing_but_its_files(wide: Fetched, fields: Sequence[int]) -> None:
    """fields: of Strips, whose own checks a stranger may pass by."""
    names = [field.name for field in dataclasses.fields(Strips)]
    frame = msgpack.packb(["AskBytes", {"strips": dict(zip(names, fields, strict=True))}])
    try:
        ask = messages.decode_request(frame)
    except WireError:
        return
    reply, data = wide.server.answer(ask)
    assert isinstance(reply, Refused) and not data


def test_messages_that_cant_be() -> None:
    with pytest.raises(ValueError, match="at once"):
        AskBytes(Strips(0, 0, 1 << 20, 1 << 20, 100))
    with pytest.raises(ValueError, match="at once"):
        AskBytes(Strips(0, 0, 1, 1, MAX_STRIPS + 1))
    with pytest.raises(ValueError, match="digest"):
        BytesFollow(b"short")
    frame = messages.encode(AskBytes(Strips(0, 1, 2, 3, 4)))
    assert messages.decode_request(frame) == AskBytes(Strips(0, 1, 2, 3, 4))
    with pytest.raises(WireError):
        messages.decode_reply([frame])
    with pytest.raises(WireError):
        messages.decode_request(messages.encode(Refused("no")))


@pytest.mark.parametrize(
    "numbers",
    [
        [1],
        [5, 0, 1, 0, 1],
        [-1, 0, 1, 0, 1],
        [0, 0, 17, 0, 1],
        [0, 2, 1, 0, 1],
        [0, 0, 1, 0, 9],
        [0, -1, 1, 0, 1],
    ],
)
def test_a_wish_for_no_tensor_is_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"blocks of tensors|none such"):
        from_integers(np.array(numbers, np.int32), [Grid(0, 0, 16, 8)])


def test_a_wish_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no blocks"):
        from_integers(np.zeros(5 * (MAX_BLOCKS + 1), np.int32), [Grid(0, 0, 16, 8)])


@pytest.mark.parametrize(
    "fields", [(0, 10, "0" * 64), (11, 10, "0" * 64), (5, 10, "../../etc"), (5, 1 << 60, "0" * 64)]
)
def test_files_that_cant_be(fields: tuple[int, int, str]) -> None:
    with pytest.raises(ValueError):
        WantedPart(*fields)


def test_a_models_hash_is_that_of_its_files() -> None:
    part = WantedPart(5, 10, "0" * 64)
    for name in ("../elsewhere", "1" * 64):
        with pytest.raises(ValueError, match="not the hash"):
            ModelFacts(name, (part,))
    with pytest.raises(ValueError, match="0 files"):
        ModelFacts(model_hash([]), ())
