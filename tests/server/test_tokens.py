"""/tokenize, /detokenize, /tokenizer_info as lm-evaluation-harness's client and vLLM's users ask them."""

from __future__ import annotations

from lm_eval.utils import RemoteTokenizer, check_remote_tokenizer_support

from tests.serving import ECHO, TOKENIZER, Served
from tplaunch.coordinator.text.chat.template import encode_chat

TEXT = "Once upon a time, 世界"


def test_the_remote_tokenizer_of_lm_eval(server: Served) -> None:
    assert check_remote_tokenizer_support(f"{server.url}/v1/completions")
    remote = RemoteTokenizer(f"{server.url}/v1/completions")
    try:
        assert remote.encode(TEXT) == TOKENIZER.encode(TEXT, add_special=False)
        assert remote.decode(remote.encode(TEXT)) == TEXT
        assert remote.eos_token_id == TOKENIZER.eos_token_id
        assert remote.bos_token_id == TOKENIZER.bos_token_id
    finally:
        remote.session.close()


def test_special_tokens_come_once(server: Served) -> None:
    found = server.post("/tokenize", prompt=TEXT).json()
    assert found["tokens"] == TOKENIZER.encode(TEXT) and found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 64
    back = server.post("/detokenize", tokens=found["tokens"]).json()["prompt"]
    assert back == TOKENIZER.token_text(TOKENIZER.bos_token_id or 0) + TEXT


def test_a_conversation_is_tokenized(server: Served) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    found = server.post("/tokenize", messages=messages, chat_template=ECHO, return_token_strs=True).json()
    assert found["tokens"] == encode_chat(TOKENIZER, "Hello")
    assert found["token_strs"] == [TOKENIZER.token_text(token) for token in found["tokens"]]


def test_as_llama_cpp_has_it(server: Served) -> None:
    assert server.post("/tokenize", content="Once").json()["tokens"] == TOKENIZER.encode(
        "Once", add_special=False
    )


def test_wrong_fields_are_named(server: Served) -> None:
    assert server.post("/tokenize").json()["error"]["param"] == "prompt"
    for tokens in ([10**6], [-1], "x", None):
        response = server.post("/detokenize", tokens=tokens)
        assert response.status_code == 400 and response.json()["error"]["param"] == "tokens"
