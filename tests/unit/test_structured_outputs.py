"""structured_outputs of the Python API, on a fake session: what comes back, and what is refused before."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_session import FakeRun, fake_opened
from tplaunch import LLM, AsyncLLM, RequestError, SamplingParams, StructuredOutputsParams

pytestmark = pytest.mark.unit

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bo"]}, "is_old": {"type": "boolean"}},
    "required": ["name", "is_old"],
    "additionalProperties": False,
}


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def llm(run: FakeRun) -> Iterator[LLM]:
    with LLM.of(fake_opened(run)) as made:
        yield made
    assert run.has_ended


def params(seed: int = 1, **wanted: Any) -> SamplingParams:
    return SamplingParams(seed=seed, max_tokens=60, structured_outputs=StructuredOutputsParams(**wanted))


def test_all_five_ways_say_what_comes_back(llm: LLM) -> None:
    ways: list[dict[str, Any]] = [
        {"regex": "[0-9]{3}-[0-9]{2}"},
        {"choice": ["yes", "no"]},
        {"grammar": 'start: "<" /[a-c]{2}/ ">"'},
        {"json": {**SCHEMA, "x-order": 1}},
        {"json": json.dumps(SCHEMA)},
    ]
    outputs = llm.generate(["Once"] * len(ways), [params(**way) for way in ways], use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    assert re.fullmatch("[0-9]{3}-[0-9]{2}", texts[0])
    assert texts[1] in ("yes", "no")
    assert re.fullmatch("<[a-c]{2}>", texts[2])
    for text in texts[3:]:
        assert text.startswith("{")
        if len(text) < 60:
            assert json.loads(text).keys() == {"name", "is_old"}


def test_any_json_object_begins_as_one(llm: LLM) -> None:
    (output,) = llm.generate("Once", params(json_object=True), use_tqdm=False)
    assert output.outputs[0].text.startswith("{")


def test_what_can_not_be_enforced_is_refused_before_anything_is_computed(llm: LLM, run: FakeRun) -> None:
    good, bad = params(choice=["yes"]), params(json={"not": {}})
    with pytest.raises(RequestError, match=r"prompts\[1\]: the JSON schema can't be enforced: .*not"):
        llm.generate(["a", "b"], [good, bad], use_tqdm=False)
    assert run.session is not None and not len(run.session.requests)
    with pytest.raises(RequestError, match="ignore_eos"):
        llm.generate(
            "a",
            SamplingParams(ignore_eos=True, structured_outputs=StructuredOutputsParams(choice=["a"])),
            use_tqdm=False,
        )


def test_async_texts_keep_to_it_too(run: FakeRun) -> None:
    async def main() -> None:
        async with AsyncLLM.of(fake_opened(run)) as llm:
            async for output in llm.generate("Once", params(choice=["yes", "no"])):
                last = output
            assert last.outputs[0].text in ("yes", "no")
            with pytest.raises(RequestError, match="unclosed"):
                async for _ in llm.generate("Once", params(regex="[")):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({}, "not none"),
        ({"regex": "a", "choice": ["a"]}, "not regex and choice"),
        ({"json_object": False}, "not none"),
        ({"json_object": 3}, "True or False"),
    ],
)
def test_one_way_is_given(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        StructuredOutputsParams(**wanted)


def test_parameters_take_no_other_type() -> None:
    with pytest.raises(
        ValueError, match="structured_outputs must be StructuredOutputsParams, not of type dict"
    ):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]
