"""lm-evaluation-harness, the real package, through `tplaunch serve` on real ranks, against LLM.score."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.multiprocess.test_lm_eval import offline, tasks
from tests.server.test_serve import ended, started

pytest.importorskip("datasets")
harness = pytest.importorskip("lm_eval.models.openai_completions")

__all__ = ["tasks"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness's own packages

CONTEXT = 64
LENGTH = CONTEXT - 1  # the server puts a begin token before what the harness sends
STORY = "Once upon a time, there was a little girl named Lily. She lived in a big house"
PAIRS = [
    *((STORY, choice) for choice in (" with her mom.", " on the moon.", ".")),
    *(("The dog", choice) for choice in (" was happy", " ran.", " was blue")),
    ("One day ", "Tom"),
    ("", "One day"),
]
TEXTS = [STORY, f"{STORY}. " * 4]
PROGRAM = """
import json, sys
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tplaunch import LLM, SamplingParams
devices, context, length, pairs, texts = json.loads(sys.argv[1])
with LLM(demo=True, devices=devices, context=context) as llm:
    def score(contexts, continuations):
        found = llm.score(contexts, continuations, use_tqdm=False)
        return [[one.logprob, one.is_greedy] for one in found]
    tokenizer = llm._opened.needed_tokenizer()
    begin = tokenizer.bos_token_id
    rolling = []
    for text in texts:
        tokens = tokenizer.encode(text, add_special=False)
        windows = get_rolling_token_windows(tokens, begin, length - 2, 1)
        parts = [
            (part if part[0] == begin else [begin, *part], rest)
            for part, rest in map(make_disjoint_window, windows)
        ]
        rolling.append(sum(one for one, _ in score(*zip(*parts))))
    params = SamplingParams(temperature=0, max_tokens=12)
    outputs = llm.generate([one for one, _ in pairs if one], params, use_tqdm=False)
    written = [output.outputs[0].text for output in outputs]
    print(json.dumps([score(*zip(*pairs)), rolling, written]))
"""


def instances(arguments: list[Any]) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.mark.parametrize("devices", ["numpy", "numpy,numpy"])
def test_numbers_are_those_of_score(tplaunch: CommandLine, devices: str) -> None:
    """To the last digit, with the cache of beginnings cold and warm, as token ids and as texts."""
    process, url = started(tplaunch, "--devices", devices, "--context", str(CONTEXT), "--add-bos")

    def model(**options: Any) -> Any:
        address = f"{url}/v1/completions"
        made = harness.LocalCompletionsAPI(
            base_url=address, model="demo-stories", max_length=LENGTH, **options
        )
        assert made.tokenizer_backend == "remote" and made.prefix_token_id == made.tokenizer.bos_token_id
        return made

    ways: list[dict[str, Any]] = [
        {},
        {},
        {"num_concurrent": 4, "batch_size": 4},
        {"tokenized_requests": False},
    ]
    pairs = [model(**way).loglikelihood(instances(PAIRS), disable_tqdm=True) for way in ways]
    texts = instances([(text,) for text in TEXTS])
    rolling = [model(**way).loglikelihood_rolling(texts, disable_tqdm=True) for way in ways[:3]]
    wishes = {"until": ["\n\n\n"], "max_gen_toks": 12}
    asked = instances([(one, wishes) for one, _ in PAIRS if one])
    written = [model(**way).generate_until(asked, disable_tqdm=True) for way in ways]
    process.send_signal(signal.SIGTERM)
    ended(process, 0)

    tplaunch.program = (sys.executable,)
    given = json.dumps([devices, CONTEXT, LENGTH, PAIRS, TEXTS])
    done = tplaunch("-c", PROGRAM, given, check=True)
    scores, whole, expected = json.loads(done.stdout.splitlines()[-1])
    for found in pairs:
        assert [list(one) for one in found] == scores
    assert rolling == [whole] * 3
    assert written == [expected] * 4


def test_the_harness_command_line(tplaunch: CommandLine, tasks: Path) -> None:
    """As docs/evaluation.md tells it; its numbers are those of the model in process."""
    process, url = started(tplaunch, "--add-bos")
    own, tplaunch.program = tplaunch.program, (sys.executable, "-m", "lm_eval")
    arguments = f"base_url={url}/v1/completions,model=demo-stories,num_concurrent=8,max_length=511"
    tplaunch(
        *("run", "--model", "local-completions", "--model_args", arguments),
        *("--tasks", "choices,written,rolling", "--include_path", tasks, "--output_path", tasks / "out"),
        env=offline(tasks),
        check=True,
    )
    process.send_signal(signal.SIGTERM)
    ended(process, 0)
    (file,) = (tasks / "out").rglob("results_*.json")
    found = json.loads(file.read_text())["results"]
    assert found["written"]["exact_match,none"] > 0.7
    assert 1 < found["rolling"]["word_perplexity,none"] < 1000
    tplaunch.program = own
    options = ("eval", "--demo", "--devices", "numpy,numpy", "--json", tasks / "choices.jsonl")
    ours = json.loads(tplaunch(*options, check=True).stdout)
    for name in ("acc", "acc_norm"):
        assert found["choices"][f"{name},none"] == pytest.approx(ours[name]["value"])
