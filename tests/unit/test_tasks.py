"""Tasks of JSON lines: what a file may hold, and what its numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_session import LIMITS, FakeRun, demo_model, fake_opened
from tplaunch import LLM
from tplaunch.coordinator.batches import lines
from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.batches.lines import numbered_lines
from tplaunch.coordinator.evaluation.running import run_items
from tplaunch.coordinator.evaluation.scoring import Score
from tplaunch.coordinator.evaluation.tasks import Choices, Written, metrics, read_task
from tplaunch.coordinator.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.unit

CHOICES: dict[str, Any] = {"prompt": "The dog", "choices": [" ran", " sang"], "answer": 1}
WRITTEN: dict[str, Any] = {"prompt": "The dog", "answer": "ran"}


def write(path: Path, *found: Any) -> Path:
    path = path / "task.jsonl"
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in found))
    return path


def test_items_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, CHOICES, "", {**WRITTEN, "stop": "x", "max_tokens": 3}, WRITTEN)
    first, second, third = read_task(path)
    assert first == Choices(1, "The dog", (" ran", " sang"), 1)
    assert second == Written(3, "The dog", "ran", ("x",), 3)
    assert third == Written(4, "The dog", "ran", ("\n",), 64)
    assert read_task(path, 1) == [first]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "it is no JSON: "),
        ("[]", "a JSON object is needed, not of type list"),
        ('{"prompt": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "it is nested too deeply|it is no JSON"),
        ({**CHOICES, "answers": 1}, "the key 'answers' is unknown"),
        ({**CHOICES, "answer": 2}, "answer is the place of the right choice, 0 to 1, not 2"),
        ({**CHOICES, "answer": True}, "0 to 1, not True"),
        ({**CHOICES, "choices": ["a"]}, "choices is a list of 2 to 1000 texts"),
        ({**CHOICES, "choices": ["a", ""]}, "a choice is a text that is not empty"),
        ({**CHOICES, "stop": ["a"]}, "go with an answer that is written"),
        ({"answer": "a"}, "prompt is a text, and it is missing"),
        ({"prompt": 5, "answer": "a"}, "prompt is a text"),
        ({**WRITTEN, "answer": " "}, "answer is a text, or with choices"),
        ({**WRITTEN, "stop": [""]}, "stop is a text, or a list"),
        ({**WRITTEN, "stop": 5}, "stop is a text, or a list"),
        ({**WRITTEN, "max_tokens": 0}, "max_tokens is a whole number of 1 to 1048576, not 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"task\.jsonl, line 2: .*({sentence})"):
        read_task(write(tmp_path, CHOICES, line))


def test_files_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"\n\n"):
        (tmp_path / "task.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"task\.jsonl is empty"):
            read_task(tmp_path / "task.jsonl")
    (tmp_path / "task.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InputError, match="line 1: it is not UTF-8"):
        read_task(tmp_path / "task.jsonl")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_task(tmp_path)
    with pytest.raises(InputError, match="can't be read: "):
        read_task(Path("a\0b"))
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 60)
    path = write(tmp_path, "x" * 300, CHOICES)
    with pytest.raises(InputError, match="line 1: it has more than 0 MiB"):
        read_task(path)
    assert [number for number, _ in numbered_lines(path)] == [1, 2]
    monkeypatch.setattr(lines, "ENDLESS_BYTES", 1000)
    with pytest.raises(InputError, match="/dev/zero, line 1 has more than"):
        read_task(Path("/dev/zero"))
    monkeypatch.setattr(lines, "MAX_LINES", 1)
    with pytest.raises(InputError, match="has more than 1 lines; part it"):
        read_task(write(tmp_path, WRITTEN, WRITTEN))


def score(logprob: float) -> Score:
    return Score(logprob, False, [], [])


def test_numbers_have_the_harness_meaning() -> None:
    """By sums, by sums for a character, and by sums for a byte; spaces before a choice are no part of it."""
    item = Choices(7, "", (" ab", " abcd", " äöü"), 2)
    result = item.result([score(-2.0), score(-3.6), score(-3.2)])
    assert (result["line"], result["chosen"]) == (7, 0)
    assert (result["acc"], result["acc_norm"], result["acc_bytes"]) == (0, 0, 1)
    assert Written(1, "", "Ran ", (), 1).result(" Ran")["exact_match"] == 1
    assert Written(1, "", "Ran", (), 1).result("ran")["exact_match"] == 0
    found = metrics([{"acc": 1}, {"acc": 0}, {"acc": 1}, {"exact_match": 1}])
    assert found.keys() == {"acc", "exact_match"} and found["acc"].value == pytest.approx(2 / 3)
    assert found["acc"].stderr == pytest.approx(np.std([1, 0, 1], ddof=1) / 3**0.5)


def test_items_are_run_together(tmp_path: Path) -> None:
    """They give what LLM.score and LLM.generate give."""
    items: list[Choices | Written] = [
        Choices(1, "Once upon", (" a time", " the hill", " a"), 0),
        Written(2, "The little fox", "went", (" ",), 5),
        Choices(3, "The dog was ", ("sad", "happy"), 1),
    ]
    run = FakeRun()
    with run.open(lambda: None):
        assert run.session is not None
        tokenizer = load_tokenizer(demo_model().metadata)
        found = {one["line"]: one for one in run_items(run.session.requests, tokenizer, items, "task", 2)}
    with LLM.of(fake_opened(FakeRun())) as llm:
        for item in items:
            if isinstance(item, Choices):
                scores = llm.score(item.prompt, list(item.choices))
                assert found[item.line] == item.result(scores)
    assert sorted(found) == [1, 2, 3] and "exact_match" in found[2]


def test_an_item_that_can_not_be_run_is_named() -> None:
    run = FakeRun()
    with run.open(lambda: None):
        assert run.session is not None
        tokenizer = load_tokenizer(demo_model().metadata)
        for item in (
            Written(5, "The dog " * 60, "ran", (".",), 5),
            Choices(5, "The dog " * 60, (" ran", " sang"), 0),
        ):
            with pytest.raises(InputError, match=r"task, line 5: the prompt has \d+ tokens"):
                list(run_items(run.session.requests, tokenizer, [item], "task", 2))


def test_choices_share_their_prompt() -> None:
    """It is computed once, and the others find it in the cache."""
    tokenizer, prompt = load_tokenizer(demo_model().metadata), "Once upon a time there was a little girl who"
    items = [Choices(1, prompt, tuple(f" {word}" for word in "abcdefgh"), 0)]
    run = FakeRun()
    with run.open(lambda: None):
        assert run.session is not None
        list(run_items(run.session.requests, tokenizer, items, "task", 16))
        num_computed = run.session.requests.counts.num_prompt_tokens
    length, block = len(tokenizer.encode(prompt)), LIMITS.block_length
    assert num_computed < length + 8 * (block + 4) < 8 * length
