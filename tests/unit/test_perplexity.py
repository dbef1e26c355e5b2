"""Perplexity and divergence, against the definitions applied to whole logits."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_session import LIMITS, FakeRun, demo_model
from tests.models import config_of
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.evaluation import base_file
from tplaunch.coordinator.evaluation.base_file import BaseFile, file_bytes, quantized, restored, writing_base
from tplaunch.coordinator.evaluation.chunks import Chunks, chunks_of
from tplaunch.coordinator.evaluation.divergence import Divergence, FileRows, KeptRows, log_softmax, report
from tplaunch.coordinator.evaluation.manifest import sha256_of
from tplaunch.coordinator.evaluation.statistics import mean, perplexity, ratio
from tplaunch.coordinator.serving.fake_model import logits
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.pool import LogitsError
from tplaunch.coordinator.text.tokenizer import load_tokenizer
from tplaunch.launcher.commands.perplexity import PerplexityConfig
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.evaluating.display import Lines, duration
from tplaunch.launcher.evaluating.measured import read_text
from tplaunch.launcher.evaluating.ways import way_config

pytestmark = pytest.mark.unit

LENGTH = 16
TEXT = "Once upon a time there lived a little fox who had a friend. " * 5
SIZE = demo_model().spec.vocabulary_size


@pytest.fixture
def requests() -> Iterator[Requests]:
    run = FakeRun(replace(LIMITS, max_sequences=3))
    with run.open(lambda: None):
        assert run.session is not None
        yield run.session.requests


def text_chunks(most: int | None = None) -> Chunks:
    return chunks_of(load_tokenizer(demo_model().metadata), TEXT, LENGTH, most)


def plain_log_probs(chunks: Chunks) -> np.ndarray[Any, Any]:
    """The log probabilities from which the scored tokens follow [chunks, scored, vocabulary]."""
    found = []
    for index in range(len(chunks)):
        rows = logits(chunks.computed(index), LayerKinds(), SIZE).astype(np.float64)
        found.append((rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))[LENGTH // 2 : LENGTH - 1])
    return np.array(found)


def test_chunks_are_those_of_the_definition() -> None:
    tokenizer = load_tokenizer(demo_model().metadata)
    tokens, chunks = tokenizer.encode(TEXT), text_chunks()
    assert len(chunks) == len(tokens) // LENGTH and len(tokens) % LENGTH
    assert chunks.tokens == tokens[: len(chunks) * LENGTH]
    assert chunks.computed(1) == [tokenizer.bos_token_id, *tokens[LENGTH + 1 : 2 * LENGTH]]
    assert (chunks.first, chunks.num_scored) == (8, 7)
    assert [chunks.scored_token(1, index) for index in range(7)] == tokens[LENGTH + 9 : 2 * LENGTH]
    assert len(text_chunks(2)) == 2
    with pytest.raises(
        RequestError, match=r"has \d+ tokens, and a perplexity with a context of 64 needs 128"
    ):
        chunks_of(tokenizer, "Once upon a time", 64)
    with pytest.raises(RequestError, match=r"has 1 token, .* take a longer text$"):
        chunks_of(tokenizer, "", 64)
    with pytest.raises(RequestError, match="a context of 3 has nothing to score"):
        chunks_of(tokenizer, TEXT, 3)


def test_perplexity_is_that_of_the_logits(requests: Requests) -> None:
    """With several chunks in a step, and a running estimate in the order of the chunks."""
    chunks = text_chunks()
    nlls = [
        [-rows[index][chunks.scored_token(chunk, index)] for index in range(7)]
        for chunk, rows in enumerate(plain_log_probs(chunks))
    ]
    by_tokens, by_rows = Divergence(chunks), Divergence(chunks, store=KeptRows(chunks, SIZE))
    for found in (by_tokens, by_rows):
        estimates = list(found.computed(requests))
        assert np.allclose(found.nlls, nlls, atol=1e-5)
        assert [one.value for one in estimates] == pytest.approx(
            [math.exp(np.mean(nlls[:count])) for count in range(1, len(chunks) + 1)], rel=1e-5
        )
    values = np.array(nlls).ravel()
    error = math.sqrt(((values**2).mean() - values.mean() ** 2) / (values.size - 1))
    assert found.perplexity.stderr == pytest.approx(error * math.exp(values.mean()), rel=1e-4)


def test_a_base_file_is_laid_out_as_llama_cpp_does(requests: Requests, tmp_path: Path) -> None:
    chunks, path = text_chunks(2), tmp_path / "base.kld"
    with writing_base(path, chunks, SIZE) as store:
        list(Divergence(chunks, store=store).computed(requests))
        assert not path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["base.kld"]
    content = path.read_bytes()
    assert content[:20] == b"_logits_" + struct.pack("<3i", LENGTH, SIZE, 2)
    assert np.frombuffer(content, "<i4", 2 * LENGTH, 20).tolist() == list(chunks.tokens)
    expected = plain_log_probs(chunks)
    offset = 20 + 4 * 2 * LENGTH
    for chunk in range(2):
        for index in range(7):
            scale, least = struct.unpack_from("<2f", content, offset)
            steps = np.frombuffer(content, "<u2", SIZE, offset + 8).astype(np.float32)
            assert np.abs(steps * scale + least - expected[chunk, index]).max() < scale
            offset += 8 + 2 * (SIZE + SIZE % 2)
    assert offset == len(content) == file_bytes(LENGTH, SIZE, 2)


@given(size=st.integers(1, 9), spread=st.sampled_from([0.0, 1e-3, 1.0, 10.0, 100.0]), seed=st.integers(0, 99))
def test_log_probabilities_come_back(size: int, spread: float, seed: int) -> None:
    row = (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)
    found, expected = restored(quantized(row), size), log_softmax(row)
    lowest = expected.max() - 16
    assert np.allclose(found, np.maximum(expected, lowest), atol=16 / 65535 + 1e-5)


def test_divergence_is_that_of_the_distributions(requests: Requests, tmp_path: Path) -> None:
    """From a file within what it rounds, from kept rows exactly."""
    chunks = text_chunks()
    random = np.random.default_rng(0)
    other = random.standard_normal((len(chunks), 7, SIZE)).astype(np.float32) * 3
    kept = KeptRows(chunks, SIZE)
    with writing_base(tmp_path / "base.kld", chunks, SIZE) as store:
        for chunk in range(len(chunks)):
            for index in range(7):
                store.take_row(chunk, index, other[chunk, index])
                kept.take_row(chunk, index, other[chunk, index])
    base = BaseFile(tmp_path / "base.kld")
    assert base.chunks(chunks.begin) == chunks and len(base.chunks(None, 2)) == 2
    p = other.astype(np.float64)
    p = p - np.log(np.exp(p).sum(axis=2, keepdims=True))
    q = plain_log_probs(chunks)
    expected = (np.exp(p) * (p - q)).sum(axis=2).ravel()
    same = (p.argmax(axis=2) == q.argmax(axis=2)).mean()
    for found, tolerance in ((Divergence(chunks, kept), 1e-5), (Divergence(chunks, FileRows(base)), 2e-3)):
        list(found.computed(requests))
        numbers = report(found)
        assert numbers.mean.value == pytest.approx(expected.mean(), abs=tolerance)
        assert numbers.largest == pytest.approx(expected.max(), abs=3 * tolerance)
        assert numbers.percentiles[50.0] == pytest.approx(np.median(expected), abs=3 * tolerance)
        assert numbers.same_top.value == pytest.approx(same)
        assert numbers.ratio.value == pytest.approx(
            numbers.perplexity.value / numbers.base_perplexity.value, rel=1e-6
        )


def test_a_way_does_not_diverge_from_itself(requests: Requests) -> None:
    chunks = text_chunks(3)
    kept = KeptRows(chunks, SIZE)
    list(Divergence(chunks, store=kept).computed(requests))
    again = Divergence(chunks, kept)
    list(again.computed(requests))
    assert not again.divergences.any() and again.has_same_top.all() and report(again).ratio.value == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content[:-1], "it is cut off"),
        (lambda content: content[:30], "it is cut off"),
        (lambda content: content[:19], "does not begin with _logits_"),
        (lambda content: b"", "does not begin with"),
        (lambda content: content + b"x", "it is damaged"),
        (lambda content: b"_logits!" + content[8:], "does not begin with"),
        (lambda content: content[:8] + struct.pack("<i", -1) + content[12:], "which can't be"),
        (lambda content: content[:12] + struct.pack("<i", 1 << 30) + content[16:], "which can't be"),
        (lambda content: content[:16] + struct.pack("<i", 1 << 30) + content[20:], "which can't be"),
        (lambda content: content[:20] + struct.pack("<i", 99) + content[24:], "the token 99 in a vocabulary"),
    ],
)
def test_a_damaged_base_file_is_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    path = tmp_path / "base.kld"
    chunks = Chunks([5] * 8, 4, None)
    with writing_base(path, chunks, 12) as store:
        for chunk in range(2):
            store.take_row(chunk, 0, np.zeros(12, np.float32))
    assert BaseFile(path).tokens == [5] * 8
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        BaseFile(path)


def test_rows_of_a_base_file_without_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.kld"
    with writing_base(path, Chunks([5] * 4, 4, None), 12) as store:
        store.take_row(0, 0, np.zeros(12, np.float32))
    content = bytearray(path.read_bytes())
    content[36:40] = struct.pack("<f", math.nan)
    path.write_bytes(content)
    with pytest.raises(InputError, match="token 0 of chunk 0 has no numbers"):
        BaseFile(path).log_probs(0, 0)


def test_a_base_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks([5] * 4, 4, None)
    with pytest.raises(KeyError), writing_base(tmp_path / "base.kld", chunks, 12):
        raise KeyError
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(base_file, "SPARE_BYTES", 1 << 60)
    with (
        pytest.raises(InputError, match=r"has room for 0\.0 GB; give --chunks"),
        writing_base(tmp_path / "base.kld", chunks, 12),
    ):
        pass
    with pytest.raises(InputError, match="has room for"):
        KeptRows(chunks, 12)


def test_logits_that_are_no_numbers_fail() -> None:
    run, chunks = FakeRun(), text_chunks(2)
    with run.open(lambda: None):
        assert run.session is not None and run.channel is not None
        run.channel.spoil_rows = {1}
        for store in (None, KeptRows(chunks, SIZE)):
            with pytest.raises(LogitsError, match="NaN or infinite"):
                list(Divergence(chunks, store=store).computed(run.session.requests))
    with pytest.raises(LogitsError, match="NaN or infinite"):
        log_softmax(np.array([1, np.nan], np.float32))
    with pytest.raises(LogitsError, match="NaN or infinite"):
        log_softmax(np.array([1, np.inf], np.float32))


def test_statistics() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    assert mean(values).value == 3 and mean(values).stderr == pytest.approx(np.std(values, ddof=1) / 2)
    assert mean(np.array([3.0])).stderr == 0
    assert perplexity(values).value == pytest.approx(math.exp(3))
    assert perplexity(np.array([800.0])).value == math.inf
    assert ratio(values, values - 0.5).value == pytest.approx(math.exp(0.5))
    assert ratio(values, values - 0.5).stderr == pytest.approx(0, abs=1e-6)


def test_ways() -> None:
    config = config_of(Path("m.gguf"), kv_type="q8_0", tensor_split=(3.0, 1.0), verbose=True)
    way = way_config("0,0 --activations q8 --context 64", config)
    assert (way.devices, way.activations, way.context_length) == ("0,0", "q8", 64)
    assert (way.kv_type, way.tensor_split, way.verbose) == ("q8_0", None, True)
    assert way_config("--kv-type f16", config) == replace(config, kv_type="f16")
    assert way_config("numpy --tensor-split 2,1 --submit-then-wait", config).submit_ahead is False
    far = replace(config, hosts=2, listen="10.0.0.1")
    alone = way_config("--hosts 1", far)
    assert (alone.hosts, alone.listen, alone.tensor_split) == (1, None, None)
    assert way_config("--wire q8", far) == replace(far, wire="q8")
    for text, sentence in (
        ("", "--compare is empty"),
        ("0 --kv-type q3", "--compare: argument --kv-type: invalid choice"),
        ("0 1", "--compare: unrecognized arguments: 1"),
        ("0 'a", "No closing quotation"),
        ("0 --devices 1", "names devices twice"),
        ("0 --parallel 0", "--parallel 0: 1 to 1024"),
    ):
        with pytest.raises(UsageError, match=sentence):
            way_config(text, config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chunks": 0}, "--chunks 0: at least 1"),
        ({"compare": ("0",)}, "--compare is given once"),
        ({"compare": ("0", "1"), "kl_base": Path("a")}, "both say what to compare with"),
        ({"text": None}, "takes a text beside the model"),
        (
            {"text": None, "kl_base": Path("/nothing/there")},
            "/nothing/there is not there yet; to make it, give a text",
        ),
    ],
)
def test_wishes_that_can_not_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        PerplexityConfig(**{"text": Path("t"), **changes})


def test_progress_is_said_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = Lines(100, "chunks", before=10, clock=lambda: now[0])
    for second, done in ((1, 11), (10, 20), (20, 30), (41, 50), (99, 100)):
        now[0] = second
        lines.show(done, "")
    assert capfd.readouterr().err.splitlines() == [
        "tplaunch: 20 of 100 chunks, 1 a second, 1 min 20 s left",
        "tplaunch: 50 of 100 chunks, 0.976 a second, 51 s left",
    ]
    assert [duration(seconds) for seconds in (0.4, 61, 7300)] == ["0 s", "1 min 1 s", "2 h 1 min"]


def test_texts_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    """Without a newline at the very end, and with all else."""
    path = tmp_path / "text"
    path.write_bytes(b"a\r\n\xff\n\n")
    assert read_text(path, 10) == "a\r\n\ufffd\n"
    for words, sentence in (
        ((path, 3), "has more than 0 MiB"),
        ((tmp_path, 3), "can't be read: Is a directory"),
        ((Path("a\0b"), 3), "can't be read: "),
    ):
        with pytest.raises(UsageError, match=sentence):
            read_text(*words)


def test_files_are_hashed_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (found,) = sha256_of([tmp_path / "a"]).result()
    assert found.startswith("ba7816bf8f01cfea") and json.dumps(found)


def test_a_remark_begins_a_line_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Also on a terminal on which numbers are being printed."""
    now = [0.0]
    lines = Lines(10, "chunks", ends_line=True, clock=lambda: now[0])
    now[0] = 10.0
    lines.show(5, "perplexity 2.0000")
    found = capfd.readouterr()
    assert found.out == "\n"
    assert found.err == "tplaunch: 5 of 10 chunks, perplexity 2.0000, 0.5 a second, 10 s left\n"
