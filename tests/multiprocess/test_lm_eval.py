"""lm-evaluation-harness, the real package, with a model of ours in process and a task without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.drivers import REPOSITORY

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
target_delimiter: ""
"""
CHOICES = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n'
WRITTEN = 'generation_kwargs: {until: [".", ","], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n'
ROLLING = "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n"
NUM_ITEMS = 12

PROGRAM = """
import json, sys
import tplaunch.lm_eval
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tplaunch import LLM

folder, devices = sys.argv[1:]
with LLM(demo=True, devices=devices) as llm:
    model = tplaunch.lm_eval.TplaunchLM(llm=llm)
    found = simple_evaluate(
        model, tasks=["choices", "written", "rolling"], task_manager=TaskManager(include_path=folder),
        log_samples=True, bootstrap_iters=0,
    )
    equal = []
    for sample in found["samples"]["choices"]:
        doc = sample["doc"]
        scores = llm.score(doc["prompt"], doc["choices"], use_tqdm=False)
        given = [answers[0] for answers in sample["resps"]]
        equal.append([list(map(float, one[:1])) for one in given] == [[score.logprob] for score in scores])
print(json.dumps({"results": found["results"], "equal": equal}))
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    lines = (REPOSITORY / "examples/stories-task.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    choices = [item for item in items if "choices" in item][-NUM_ITEMS:]
    written = [{"prompt": one["prompt"], "answer": one["answer"]} for one in items if "choices" not in one]
    rolling = [{"text": one["prompt"]} for one in written]
    kinds = {
        "choices": (choices, "multiple_choice", "{{prompt}}", "{{answer}}", CHOICES),
        "written": (written, "generate_until", "{{prompt}}", " {{answer}}", WRITTEN),
        "rolling": (rolling, "loglikelihood_rolling", "", "{{text}}", ROLLING),
    }
    for name, (docs, kind, text, target, more) in kinds.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        task = TASK.format(name=name, file=file, kind=kind, text=text, target=target)
        (tmp_path / f"{name}.yaml").write_text(task + more)
    return tmp_path


def offline(folder: Path) -> dict[str, str]:
    return {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.mark.parametrize("devices", ["numpy", "numpy,numpy"])
def test_the_harness_in_process(tplaunch: CommandLine, tasks: Path, devices: str) -> None:
    """Its loglikelihoods are LLM.score's to the last digit, its numbers those of `tplaunch eval`."""
    tplaunch.program, own = (sys.executable,), tplaunch.program
    done = tplaunch("-c", PROGRAM, tasks, devices, env=offline(tasks), check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] == [True] * NUM_ITEMS
    results = found["results"]
    assert results["written"]["exact_match,none"] > 0.7
    assert 1 < results["rolling"]["word_perplexity,none"] < 1000
    tplaunch.program = own
    options = ("eval", "--demo", "--devices", devices, "--json", tasks / "choices.jsonl")
    ours = json.loads(tplaunch(*options, check=True).stdout)
    for name in ("acc", "acc_norm"):
        assert results["choices"][f"{name},none"] == pytest.approx(ours[name]["value"])


def test_the_harness_command_line(tplaunch: CommandLine, tasks: Path) -> None:
    tplaunch.program = (sys.executable, "-m", "tplaunch.lm_eval")
    done = tplaunch(
        *(
            "run",
            "--model",
            "tplaunch",
            "--model_args",
            "demo=True,devices=numpy+numpy",
            "--tasks",
            "choices",
        ),
        *("--include_path", tasks, "--limit", "2", "--output_path", tasks / "out"),
        env=offline(tasks),
        check=True,
    )
    assert "|choices|" in done.stdout.replace(" ", "")
    (file,) = (tasks / "out").rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["model"] == "tplaunch" and config["tplaunch_version"]
