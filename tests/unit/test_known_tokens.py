"""Which tokens end a generation, and which are control tokens whatever a file says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vocabularies import CONTROL, FIRST, NORMAL, USER_DEFINED, byte_level_metadata
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer


def load(*texts: str, kind: int = NORMAL, **keys: Any) -> Tokenizer:
    return load_tokenizer(byte_level_metadata((), [(text, kind) for text in texts], **keys))


@pytest.mark.parametrize(
    "text",
    [
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"),
        *("<|eom_id|>", "<EOT>", "[EOT]", "[EOS]", "<turn|>", "<|return|>", "<｜end▁of▁sentence｜>", "[e~["),
        *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "[PAD]"),
    ],
)
@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED, CONTROL])
def test_ends_are_known_by_their_texts(text: str, kind: int) -> None:
    tokenizer = load(text, kind=kind)
    assert tokenizer.eos_token_ids == {FIRST}
    assert tokenizer.token_bytes(FIRST) == b""
    assert FIRST not in tokenizer.encode(text)
    assert tokenizer.encode(text, parse_special=True) == [FIRST]


def test_ends_are_known_by_their_keys() -> None:
    keys = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
    texts = [f"<{key}>" for key in (*keys, "fim_pre")]
    ids: dict[str, Any] = {f"{key}_token_id": FIRST + place for place, key in enumerate((*keys, "fim_pre"))}
    assert load(*texts, kind=CONTROL, **ids).eos_token_ids == set(range(FIRST, FIRST + len(keys)))


def test_marks_of_what_to_fill_in_are_control_tokens_but_no_ends() -> None:
    tokenizer = load("<fim_prefix>", "<|fim_middle|>")
    assert tokenizer.eos_token_ids == frozenset()
    assert tokenizer.token_bytes(FIRST) == tokenizer.token_bytes(FIRST + 1) == b""


def test_texts_of_fill_tokens_mean_nothing_where_a_key_names_the_token() -> None:
    texts = ("[PAD]", "<REPO>", "<|fim_prefix|>", "<x>")
    keys = {"fim_pad_token_id": FIRST + 3, "prefix_token_id": FIRST + 3}
    tokenizer = load(*texts, **keys)
    assert tokenizer.eos_token_ids == {FIRST + 1, FIRST + 3}
    stands_for = [tokenizer.token_bytes(token) for token in range(FIRST, FIRST + 4)]
    assert stands_for == [b"[PAD]", b"", b"<|fim_prefix|>", b"<x>"]


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED, CONTROL])
@pytest.mark.parametrize("other", ["<|tool_response>", "<|plamo:eos|>"])
def test_the_strike_tag_is_an_end_but_beside_certain_others(other: str, kind: int) -> None:
    assert load("</s>", kind=kind).eos_token_ids == {FIRST}
    tokenizer = load("</s>", other, kind=kind, eos_token_id=FIRST + 1)
    assert tokenizer.eos_token_ids == {FIRST + 1}
    assert tokenizer.token_bytes(FIRST) == b"</s>"


@pytest.mark.parametrize("kind", [NORMAL, CONTROL])
def test_what_parts_the_answers_of_gpt_oss_is_text(kind: int) -> None:
    tokenizer = load("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", kind=kind)
    assert tokenizer.eos_token_ids == frozenset()
    assert tokenizer.encode("a<|start|>") == [ord("a"), FIRST + 2]
    assert tokenizer.token_bytes(FIRST + 2) == b"<|start|>"


@pytest.mark.parametrize("others", [("<|return|>", "<|call|>"), ("<|flush|>", "<|calls|>")])
def test_the_end_of_one_message_of_several_is_no_end_of_the_turn(others: tuple[str, str]) -> None:
    tokenizer = load("<|end|>", *others, kind=CONTROL, eot_token_id=FIRST)
    assert tokenizer.eos_token_ids == {FIRST + 1, FIRST + 2}
    assert tokenizer.token_bytes(FIRST) == b"<|end|>"
    assert load("<|end|>", others[0], kind=CONTROL).eos_token_ids == {FIRST, FIRST + 1}
