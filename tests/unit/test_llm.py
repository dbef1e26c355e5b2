"""LLM on a fake session: what it takes, what it gives back, and what it says of errors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import timeit
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tplaunch
from tests.fake_session import LIMITS, FakeRun, demo_model, fake_opened
from tests.models import config_of
from tplaunch import (
    LLM,
    ClosedError,
    GenerationError,
    RequestError,
    RequestOutput,
    RunError,
    SamplingParams,
    UsageError,
)
from tplaunch.batch import Batch, compute
from tplaunch.coordinator.serving.fake_model import logits
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.request import Reading
from tplaunch.opening import _as_many
from tplaunch.progress_bar import _is_notebook, progress_bar
from tplaunch.scoring import as_pair

pytestmark = pytest.mark.unit

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
ECHO = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def llm(run: FakeRun) -> Iterator[LLM]:
    with LLM.of(fake_opened(run)) as made:
        yield made
    assert run.has_ended


def num_rows(run: FakeRun) -> int:
    assert run.channel is not None
    return run.channel.num_rows


def greedy(llm: LLM, tokens: list[int], count: int = 5) -> list[int]:
    """Returns the tokens that the fake model puts behind these."""
    found = list(tokens)
    for _ in range(count):
        found.append(int(logits(found, LayerKinds(), demo_model().spec.vocabulary_size)[-1].argmax()))
    return found[len(tokens) :]


def test_all_public_names_are_there() -> None:
    assert [name for name in tplaunch.__all__ if getattr(tplaunch, name, None) is None] == []
    assert set(tplaunch.__all__) <= set(dir(tplaunch))
    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        _ = tplaunch.LLMs  # type: ignore[attr-defined]


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    prompts: list[Any] = [
        "Once upon a time",
        [5, 6, 7],
        {"prompt": "The dog"},
        {"prompt_token_ids": [8, 9], "prompt": "shown"},
        np.array([3, 4]),
    ]
    outputs = llm.generate(prompts, GREEDY)
    assert [output.prompt for output in outputs] == ["Once upon a time", None, "The dog", "shown", None]
    assert outputs[0].prompt_token_ids == llm.encode("Once upon a time")
    assert [output.prompt_token_ids for output in outputs[1:2] + outputs[3:]] == [[5, 6, 7], [8, 9], [3, 4]]
    for output in outputs:
        (text,) = output.outputs
        assert text.token_ids == greedy(llm, output.prompt_token_ids)
        assert (text.index, text.finish_reason, text.stop_reason) == (0, "length", None)
        assert (
            output.finished and text.finished() and text.logprobs is None and text.cumulative_logprob is None
        )
        assert text.text == b"".join(
            llm._opened.needed_tokenizer().token_bytes(token) for token in text.token_ids
        ).decode(errors="replace")


def test_one_prompt_and_none(llm: LLM) -> None:
    assert [output.prompt for output in llm.generate("The dog", GREEDY)] == ["The dog"]
    assert [output.prompt_token_ids for output in llm.generate([5, 6], GREEDY)] == [[5, 6]]
    arrays: list[Any] = [np.array([5]), np.array([6, 7])]
    assert [output.prompt_token_ids for output in llm.generate(arrays, GREEDY)] == [[5], [6, 7]]
    assert [output.prompt_token_ids for output in llm.generate(arrays[:1], GREEDY)] == [[5]]
    assert [output.prompt_token_ids for output in llm.generate(arrays[1], GREEDY)] == [[6, 7]]
    floats: Any = np.array([1.5])
    with pytest.raises(RequestError, match="token ids are whole numbers"):
        llm.generate([floats], GREEDY)
    assert llm.generate([], GREEDY) == []
    assert len(llm.generate(["a", "b"])) == 2


def test_log_probabilities(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=0, n=2, ignore_eos=True)
    (output,) = llm.generate([[5, 6, 7]], params)
    assert output.prompt_logprobs is not None and output.prompt_logprobs[0] is None
    assert [set(one or ()) for one in output.prompt_logprobs[1:]] == [{6}, {7}]
    assert [text.index for text in output.outputs] == [0, 1]
    for text in output.outputs:
        assert text.logprobs is not None and len(text.logprobs) == 3
        chosen = [found[token] for token, found in zip(text.token_ids, text.logprobs, strict=True)]
        assert [one.rank for one in chosen] == [1, 1, 1] and {len(found) for found in text.logprobs} == {2}
        assert text.cumulative_logprob == pytest.approx(sum(one.logprob for one in chosen))
        assert all(isinstance(one.decoded_token, str) for one in chosen)


def test_a_token_stands_before_likelier_ones(llm: LLM) -> None:
    """As vLLM has it, where programs take the first."""
    params = SamplingParams(
        max_tokens=2, logprobs=3, prompt_logprobs=3, allowed_token_ids=[9], ignore_eos=True
    )
    (output,) = llm.generate([[5, 6, 7]], params)
    assert output.prompt_logprobs is not None and output.outputs[0].logprobs is not None
    found = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    assert [next(iter(one or ())) for one in found] == [6, 7, 9, 9]
    for one in found:
        assert one is not None
        others = list(one.values())[len(one) - 3 :]
        assert len(one) == 3 or [other.rank for other in others] == [1, 2, 3]


def test_parameters_for_each_prompt(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (2, 4)]
    outputs = llm.generate([[5], [5]], params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [2, 4]
    with pytest.raises(RequestError, match="there are 3 prompts, but 2 sampling_params"):
        llm.generate([[5]] * 3, params)
    with pytest.raises(RequestError, match="of type dict, not SamplingParams"):
        llm.generate([5], {"n": 1})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a dict among the SamplingParams"):
        llm.generate([[5]], [{}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (
            [1] * 64,
            "64 tokens, and the context of 64 has room for 63: 1 too many; .* give more context with context",
        ),
        ([99_999], "the prompt has the token 99999"),
        ([], "the prompt is empty"),
        ([1.5], "token ids are whole numbers, not 1.5"),
        ({"text": "a"}, "one of the keys prompt and prompt_token_ids, not 'text'"),
        (7, "a text or a list of token ids, not of type int"),
        ({"prompt": None}, "not of type NoneType"),
    ],
)
def test_a_bad_prompt_is_named_before_anything_is_computed(
    llm: LLM, run: FakeRun, prompt: Any, sentence: str
) -> None:
    with pytest.raises(RequestError, match=rf"^prompts\[1\]: .*{sentence}"):
        llm.generate(["The dog", prompt, "a"], GREEDY)
    assert not num_rows(run)
    assert len(llm.generate("The dog", GREEDY)) == 1


def test_a_bad_prompt_alone_has_no_index(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"^the prompt has the token 99999"):
        llm.generate([99_999], GREEDY)
    with pytest.raises(RequestError, match="prompts are texts or lists of token ids, not of type int"):
        llm.generate(7)  # type: ignore[arg-type]


def test_one_that_fails_later_leaves_the_others(llm: LLM, run: FakeRun) -> None:
    assert run.channel is not None
    run.channel.spoil_rows = {1}
    with pytest.raises(GenerationError, match=r"^prompts\[1\]: \d+ of \d+ logits are NaN") as raised:
        llm.generate([[5, 6], [7, 8], [9, 3]], SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
    outputs: list[RequestOutput] = raised.value.outputs
    assert [output.outputs[0].finish_reason for output in outputs] == ["length", "error", "length"]
    assert outputs[2].outputs[0].token_ids == greedy(llm, [9, 3], 1)
    run.channel.spoil_rows = set()
    assert len(llm.generate([5], GREEDY)) == 1


def test_a_failed_rank_is_one_sentence(run: FakeRun) -> None:
    llm = LLM.of(fake_opened(run))
    assert run.channel is not None
    run.channel.failing[0] = "the device was lost"
    with pytest.raises(RunError, match=r"^rank 0 failed: the device was lost; its log: nowhere$"):
        llm.generate(["a", "b"], GREEDY)
    with pytest.raises(ClosedError, match="load it again: rank 0 failed"):
        llm.generate("a", GREEDY)
    llm.close()


def test_interrupted(llm: LLM, run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C while it waits: nothing of it is computed any more, and the model can be used."""
    assert run.session is not None

    def interrupt(batch: Batch, seconds: float | None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["a", "b"], SamplingParams(max_tokens=None, ignore_eos=True))
    assert len(llm.generate([5], GREEDY)) == 1
    assert not len(run.session.requests)


def test_closed(run: FakeRun) -> None:
    llm = LLM.of(fake_opened(run))
    llm.close()
    llm.close()
    assert run.has_ended
    for call in (lambda: llm.generate("a"), lambda: llm.score("a", "b"), lambda: llm.logits("a")):
        with pytest.raises(ClosedError, match=r"^the model was closed; load it again to go on$"):
            call()
    assert llm.decode(llm.encode("The dog")) == "The dog"


def test_nobody_has_it_any_more(run: FakeRun) -> None:
    llm = LLM.of(fake_opened(run))
    llm.generate([5], GREEDY)
    del llm
    gc.collect()
    assert run.has_ended


def test_threads_share_it(llm: LLM) -> None:
    def generate(number: int) -> list[int]:
        (output,) = llm.generate([number, number + 1], GREEDY)
        return output.outputs[0].token_ids

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(generate, range(3, 40)))
    assert found == [greedy(llm, [number, number + 1]) for number in range(3, 40)]


def test_made_in_a_thread_that_ends(run: FakeRun) -> None:
    made: list[LLM] = []
    thread = threading.Thread(target=lambda: made.append(LLM.of(fake_opened(run))))
    thread.start()
    thread.join()
    with made[0] as llm:
        assert len(llm.generate([5], GREEDY)) == 1


def test_a_model_that_the_collector_finds_in_a_thread_of_ours_is_closed_by_another(run: FakeRun) -> None:
    """One that closing waits for would wait for itself."""
    closed_in: list[str] = []
    opened = fake_opened(run)
    close, is_closed = opened.close, threading.Event()

    def note_and_close() -> None:
        closed_in.append(threading.current_thread().name)
        close()
        is_closed.set()

    opened.close = note_and_close  # type: ignore[method-assign]
    held = [LLM.of(opened)]
    thread = threading.Thread(target=held.clear, name="tplaunch hosts")
    thread.start()
    thread.join()
    assert is_closed.wait(20) and run.has_ended
    assert closed_in == ["tplaunch close"]


def test_a_seed_of_the_model() -> None:
    texts = []
    for _ in range(2):
        with LLM.of(fake_opened(FakeRun(), seed=7)) as llm:
            outputs = llm.generate([[5]] * 2, SamplingParams(max_tokens=20, ignore_eos=True))
            texts.append([output.outputs[0].token_ids for output in outputs])
    assert texts[0] == texts[1] and texts[0][0] != texts[0][1]


def test_what_nobody_has_any_more_is_freed(llm: LLM) -> None:
    """At once, also where nothing else comes: logits of a long prompt are large."""
    gc.collect()
    gc.disable()
    try:
        is_freed = threading.Event()
        (request,) = compute(llm._opened.driver, [[5, 6]], [GREEDY], readings=[Reading()])
        reference = weakref.ref(request, lambda _: is_freed.set())
        del request
        assert is_freed.wait(30) and reference() is None
    finally:
        gc.enable()


def test_generate_takes_no_longer_than_the_loop_below_it() -> None:
    """In computing time of this process for 64 prompts, so that it reaches the rate of a benchmark."""
    limits = replace(LIMITS, num_blocks=1024, max_logit_rows=64, max_sequences=64)
    prompts, params = [[number, 5] for number in range(3, 67)], replace(GREEDY, max_tokens=32)
    run = FakeRun(limits)

    def loop() -> None:
        assert run.session is not None
        for prompt in prompts:
            run.session.requests.add(prompt, params)
        while len(run.session.requests):
            run.session.requests.step()

    with run.open(lambda: None):
        of_loop = min(timeit.repeat(loop, timer=time.process_time, number=1, repeat=4))
    with LLM.of(fake_opened(FakeRun(limits))) as llm:
        of_generate = min(
            timeit.repeat(lambda: llm.generate(prompts, params), timer=time.process_time, number=1, repeat=4)
        )
    assert of_generate < 1.4 * of_loop


def test_logits(llm: LLM) -> None:
    tokens = llm.encode("Once upon a time")
    found = llm.logits("Once upon a time")
    assert found.dtype == np.float32
    assert np.array_equal(found, logits(tokens, LayerKinds(), demo_model().spec.vocabulary_size))
    assert len(llm.logits(list(range(3, 67)))) == 64  # as many as the context holds


def test_score(llm: LLM) -> None:
    rows = llm.logits([5, 6, 7, 8]).astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    likeliest = int(rows[1].argmax())
    first, second = llm.score([5, 6], [[7, 8], [likeliest]])
    assert first.token_ids == [7, 8] and not first.is_greedy
    assert first.token_logprobs == pytest.approx([logprobs[1, 7], logprobs[2, 8]])
    assert first.logprob == pytest.approx(sum(first.token_logprobs))
    assert second.is_greedy and second.token_ids == [likeliest]
    with pytest.raises(RequestError, match="there are 2 contexts, but 3 continuations"):
        llm.score(["a", "b"], ["c", "d", "e"])
    with pytest.raises(RequestError, match=r"^prompts\[1\]: the continuation is empty"):
        llm.score("a", ["b", ""])


def test_score_takes_a_text_with_a_token_more_than_the_context(llm: LLM) -> None:
    """The last token follows the context's last position, and nothing is generated behind it."""
    text = [3 + index % 9 for index in range(65)]
    (score,) = llm.score(text[:60], text[60:])
    assert score.token_ids == text[60:]
    (same,) = llm.score(text[:63], text[63:])  # begins in the cache
    assert same.token_logprobs == score.token_logprobs[3:]
    with pytest.raises(RequestError, match="has 65 tokens, and the context of 64 has room for 64"):
        llm.score(text[:60], [*text[60:], 3])


def test_score_tokenizes_both_together(llm: LLM) -> None:
    whole = llm.encode("Once upon a time")
    for context, continuation in (
        ("Once upon", " a time"),
        ("Once upon ", "a time"),
        ("", "Once upon a time"),
    ):
        before, behind = as_pair(llm._opened, context, continuation)
        assert before + behind == whole
        assert before == llm.encode(context.rstrip())
    before, behind = as_pair(llm._opened, "Once up", "on")  # one token, of which the context has no part
    assert (before, behind) == (llm.encode("Once"), llm.encode("Once upon")[2:])
    assert as_pair(llm._opened, [], [5]) == ([llm._opened.needed_tokenizer().bos_token_id], [5])
    assert as_pair(llm._opened, "Once upon", [5]) == (llm.encode("Once upon"), [5])


def test_chat(llm: LLM) -> None:
    asks = [{"role": "user", "content": "Once upon a time"}]
    (output,) = llm.chat(asks, GREEDY, chat_template=ECHO)
    assert output.prompt == "Once upon a time"
    assert output.prompt_token_ids == llm.encode("Once upon a time")
    both = llm.chat(
        [asks, asks], GREEDY, chat_template=ECHO + "{{ mark }}", chat_template_kwargs={"mark": "!"}
    )
    assert [output.prompt for output in both] == ["Once upon a time!"] * 2
    with pytest.raises(
        RequestError, match="the model file has no chat template; give one with chat_template"
    ):
        llm.chat(asks)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}hello"
    with pytest.raises(RequestError, match=r"^prompts\[1\]: the chat template refuses .*: no"):
        llm.chat([asks, [{"role": "system", "content": "x"}]], chat_template=refusing)
    with pytest.raises(RequestError, match="a conversation is a list of messages"):
        llm.chat("hello")  # type: ignore[arg-type]


def test_chat_by_the_files_own_templates() -> None:
    metadata = {
        **demo_model().metadata,
        "tokenizer.chat_template": ECHO + "{% if add_generation_prompt %}Anna: {% endif %}",
        "tokenizer.chat_templates": ["loud"],
        "tokenizer.chat_template.loud": ECHO + "!",
    }
    asks = [{"role": "user", "content": "hello "}]
    with LLM.of(fake_opened(FakeRun(), metadata)) as llm:
        assert llm.chat(asks, GREEDY)[0].prompt == "hello Anna: "
        assert llm.chat(asks, GREEDY, add_generation_prompt=False)[0].prompt == "hello "
        assert llm.chat(asks, GREEDY, continue_final_message=True)[0].prompt == "hello "
        assert llm.chat(asks, GREEDY, chat_template="loud")[0].prompt == "hello !"


def test_without_a_tokenizer() -> None:
    with LLM.of(fake_opened(FakeRun(), {})) as llm:
        assert llm.generate([5, 6], GREEDY)[0].outputs[0].token_ids == greedy(llm, [5, 6])
        with pytest.raises(RequestError, match="the model file holds no tokenizer"):
            llm.generate("a")


def test_no_progress_is_shown_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (sys.stderr, None):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(3, is_wanted=True) as show:
            assert show is None


def test_progress_on_a_terminal() -> None:
    program = (
        "from tplaunch.progress_bar import progress_bar\n"
        "with progress_bar(3, is_wanted=False) as show: assert show is None\n"
        "with progress_bar(3, is_wanted=True) as show: show(1, 10); show(3, 30)"
    )
    reader, writer = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", program], stderr=writer, env=environment, check=False)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as terminal:
        shown = terminal.read(1 << 16).decode()
    assert done.returncode == 0, shown
    assert "prompts" in shown and "1/3" in shown and "3/3" in shown and "tokens/s" in shown


@pytest.mark.parametrize(("shell", "has_widgets"), [("ZMQInteractiveShell", True), ("TerminalShell", True),
                                                    ("ZMQInteractiveShell", False)])  # fmt: skip
def test_a_notebook_is_known(monkeypatch: pytest.MonkeyPatch, shell: str, has_widgets: bool) -> None:
    found = SimpleNamespace(get_ipython=type(shell, (), {}))
    monkeypatch.setitem(sys.modules, "IPython", found)
    spec = object() if has_widgets else None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert _is_notebook() == (shell == "ZMQInteractiveShell" and has_widgets)


def test_ranks_of_a_number() -> None:
    """tensor_parallel_size takes the first devices, in turn where there are fewer."""
    one, two, three = (object() for _ in range(3))
    config = config_of(Path("model.gguf"), devices="0,1,2")
    assert _as_many([one], 3, config, False) == [one] * 3  # type: ignore[list-item]
    assert _as_many([one, two, three], 2, config, False) == [one, two]  # type: ignore[list-item]
    with pytest.raises(UsageError, match="tensor_parallel_size is 2, but devices='0,1,2' names 3"):
        _as_many([one, two, three], 2, config, True)  # type: ignore[list-item]
    staged = replace(config, pipeline=2)
    with pytest.raises(UsageError, match="tensor_parallel_size is 2 on each of 2 stages, but devices="):
        _as_many([one, two, three], 4, staged, True)  # type: ignore[list-item]
