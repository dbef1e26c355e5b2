"""/v1/completions on a fake session: what comes is what the engine computes, in OpenAI's forms."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.serving import GREEDY, NAME, TOKENIZER, Served, events, expected

PROMPT = [5, 6, 7]


def complete(server: Served, **fields: Any) -> dict[str, Any]:
    response = server.post("/v1/completions", **{"prompt": PROMPT, "max_tokens": 4, **GREEDY, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def refusal(server: Served, **fields: Any) -> dict[str, Any]:
    response = server.post("/v1/completions", **{"prompt": PROMPT, "max_tokens": 4, **GREEDY, **fields})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_a_prompt_of_tokens_is_continued(server: Served) -> None:
    body = complete(server)
    assert body["object"] == "text_completion" and body["model"] == NAME
    (choice,) = body["choices"]
    assert choice["text"] == expected(PROMPT, 4)
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"] == (3, 4)


def test_a_text_is_the_same_as_its_tokens(server: Served) -> None:
    tokens = TOKENIZER.encode("Once upon a time")
    assert (
        complete(server, prompt="Once upon a time")["choices"] == complete(server, prompt=tokens)["choices"]
    )


def test_choices_are_numbered_through_all_prompts(server: Served) -> None:
    prompts = [[5, 6], [7, 8, 9], [1]]
    body = complete(server, prompt=prompts, n=2)
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"] for choice in body["choices"]] == [
        expected(prompt, 4) for prompt in prompts for _ in range(2)
    ]
    assert body["usage"]["prompt_tokens"] == 6 and body["usage"]["completion_tokens"] == 24


def test_a_stream_brings_the_same_text(server: Served) -> None:
    response = server.post(
        "/v1/completions",
        **{"prompt": [PROMPT, [9]], "max_tokens": 5, **GREEDY},
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = events(response)
    texts = ["", ""]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        assert chunk["usage"] is None
    assert texts == [expected(PROMPT, 5), expected([9], 5)]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 10


def test_echo_has_an_entry_for_each_token_and_one_more(server: Served) -> None:
    """As lm-evaluation-harness needs it: it leaves out the last one, and counts from the front."""
    (choice,) = complete(server, max_tokens=1, echo=True, logprobs=1, ignore_eos=False)["choices"]
    logprobs = choice["logprobs"]
    assert {len(logprobs[name]) for name in logprobs} == {len(PROMPT) + 1}
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(isinstance(top, dict) and top for top in logprobs["top_logprobs"][1:])
    assert all(logprob < 0 for logprob in logprobs["token_logprobs"][1:])


def test_echo_without_new_tokens(server: Served) -> None:
    body = complete(server, max_tokens=0, echo=True, logprobs=2)
    (choice,) = body["choices"]
    assert len(choice["logprobs"]["tokens"]) == len(PROMPT) and choice["finish_reason"] == "length"
    assert choice["text"] == b"".join(map(TOKENIZER.token_bytes, PROMPT)).decode()
    assert body["usage"]["completion_tokens"] == 0


def test_echo_has_one_entry_more_also_where_the_text_ends_at_once(server: Served) -> None:
    end = TOKENIZER.eos_token_id
    fields = {"ignore_eos": False, "logit_bias": {str(end): 1e6}, "echo": True, "logprobs": 1}
    (choice,) = complete(server, max_tokens=1, **fields)["choices"]
    assert choice["finish_reason"] == "stop"
    assert {len(entries) for entries in choice["logprobs"].values()} == {len(PROMPT) + 1}
    assert choice["logprobs"]["token_logprobs"][-1] is None and choice["logprobs"]["top_logprobs"][-1] == {}


@pytest.mark.parametrize("text", ["Once upon a time", "Grüße, 世界 🙂", " two  spaces"])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_offsets_point_into_the_text(server: Served, text: str, as_tokens: bool, stream: bool) -> None:
    fields = {"max_tokens": 8, "echo": True, "logprobs": 0, **GREEDY}
    prompt = TOKENIZER.encode(text) if as_tokens else text
    response = server.post("/v1/completions", prompt=prompt, stream=stream, **fields)
    bodies = events(response) if stream else [response.json()]
    whole = "".join(body["choices"][0]["text"] for body in bodies)
    assert whole.startswith(text)
    entries = [
        entry
        for body in bodies
        for entry in zip(*map(body["choices"][0]["logprobs"].get, ("tokens", "text_offset")), strict=True)
    ]
    assert len(entries) == len(TOKENIZER.encode(text, add_special=as_tokens)) + 8
    for token, offset in entries[2:]:  # behind the begin token and the space that encoding adds
        if "\\x" not in token and "\ufffd" not in whole:
            assert whole[offset:].startswith(token)


def test_token_ids_are_returned_where_asked_for(server: Served) -> None:
    (choice,) = complete(server, return_token_ids=True)["choices"]
    assert len(choice["token_ids"]) == 4 and choice["prompt_token_ids"] == PROMPT


def test_special_tokens_can_be_left_out(server: Served) -> None:
    for add, tokens in (
        (True, TOKENIZER.encode("Once")),
        (False, TOKENIZER.encode("Once", add_special=False)),
    ):
        body = complete(server, prompt="Once", add_special_tokens=add, return_token_ids=True)
        assert body["choices"][0]["prompt_token_ids"] == tokens


def test_an_empty_text_of_a_character_in_parts_is_not_sent(server: Served) -> None:
    response = server.post("/v1/completions", prompt=PROMPT, max_tokens=20, stream=True, **GREEDY)
    chunks = [chunk["choices"][0] for chunk in events(response)]
    assert all(chunk["text"] for chunk in chunks if chunk["finish_reason"] is None)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"stream_options": {"include_usage": 3}}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named(server: Served, fields: dict[str, Any], names: str) -> None:
    error = refusal(server, **fields)
    assert error["param"] == names and names in error["message"]


def test_a_prompt_that_does_not_fit_is_refused_with_by_how_much(server: Served) -> None:
    error = refusal(server, prompt=[5] * 100)
    assert "100" in error["message"] and "64" in error["message"]


def test_another_model_is_not_here(server: Served) -> None:
    response = server.post("/v1/completions", prompt=PROMPT, model="gpt-4")
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
    assert complete(server, model="another-name")["model"] == NAME


def test_models_are_listed(server: Served) -> None:
    body = server.get("/v1/models").json()
    assert [model["id"] for model in body["data"]] == [NAME]
    assert server.get(f"/v1/models/{NAME}").json()["max_model_len"] == 64
    assert server.get("/v1/models/gpt-4").status_code == 404


def test_embeddings_are_refused_with_a_sentence(server: Served) -> None:
    response = server.post("/v1/embeddings", input="x")
    assert response.status_code == 501 and "embeddings" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "matches"),
    [
        ({"guided_regex": "[ab]{3}c"}, "[ab]{3}c"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"guided_grammar": 'start: "x" "y"+ "z"'}, "xy+z"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": [1, 2]}}}},
            r"\s*\[\s*1\s*,\s*2\s*\]\s*",
        ),
    ],
)
def test_a_text_has_the_form_that_is_asked_for(server: Served, form: dict[str, Any], matches: str) -> None:
    body = complete(server, max_tokens=40, ignore_eos=False, **form)
    assert re.fullmatch(matches, body["choices"][0]["text"]), body


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "(("},
        {"guided_grammar": "no grammar"},
        {"guided_json": {"type": "nothing"}},
        {"grammar": 'root ::= "llama.cpp"'},
    ],
)
def test_a_form_that_can_not_be_enforced_is_refused(server: Served, form: dict[str, Any]) -> None:
    assert refusal(server, **form)["message"]


@pytest.mark.parametrize("echo", [False, True])
def test_a_text_that_names_its_begin_token_gets_no_other(server: Served, echo: bool) -> None:
    """Where the client wrote it, it has an entry, as all tokens of its text."""
    name, prompt = TOKENIZER.token_text(TOKENIZER.encode("")[0]), "The dog"
    body = {"max_tokens": 3, "echo": echo, "logprobs": 1, "return_token_ids": True, **GREEDY}
    (named,) = server.post("/v1/completions", prompt=name + prompt, **body).json()["choices"]
    (plain,) = server.post("/v1/completions", prompt=prompt, **body).json()["choices"]
    assert named["prompt_token_ids"] == plain["prompt_token_ids"] == TOKENIZER.encode(prompt)
    assert named["text"] == (name if echo else "") + plain["text"]
    probabilities = [one["logprobs"]["token_logprobs"] for one in (named, plain)]
    assert (
        len(probabilities[0]) == len(probabilities[1]) + echo
        and probabilities[0][-3:] == probabilities[1][-3:]
    )
