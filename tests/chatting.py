"""A vocabulary and a template of the ChatML kind, and chats on a fake channel."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import fake_engine
from tests.vocabularies import CONTROL, byte_level_metadata
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.text.chat.template import ChatTemplate
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer
from tplaunch.launcher.chat.answers import Answers
from tplaunch.launcher.chat.chat import Chat
from tplaunch.launcher.chat.conversation import Conversation
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.session import Session

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ADDED = [("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
JOINS = [("q", "q")]  # a file's writer leaves out an empty list of them
START, END = 257, 258
VOCABULARY: dict[str, Any] = byte_level_metadata(JOINS, ADDED, eos_token_id=END, bos_token_id=START)
SIZE = 259


def make_tokenizer() -> Tokenizer:
    return load_tokenizer(VOCABULARY)


def make_chat(
    template: ChatTemplate, context: int = 1024, kinds: LayerKinds | None = None, **changes: Any
) -> Chat:
    """A chat with a model that writes nonsense, but always the same; blocks have 4 positions.

    changes: of the GenerateConfig; `sampling` are the changes of its parameters.
    """
    kinds = kinds or LayerKinds()
    sampling = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, **changes.pop("sampling", {})}
    limits = Limits(
        context_length=context,
        num_blocks=context // 2 if kinds.sees_all else 0,
        block_length=4,
        num_window_blocks=context // 2 if kinds.window else 0,
        num_slots=16 if kinds.has_states else 0,
        max_rows=64,
        max_logit_rows=8,
        max_sequences=2,
    )
    engine, _ = fake_engine(limits, kinds, vocabulary_size=SIZE)
    tokenizer = make_tokenizer()
    generate = GenerateConfig(None, None, SamplingParams(**sampling), json=False, **changes)
    unused: Any = None
    session = Session(
        engine,
        Requests(engine, tokenizer),
        True,
        *(unused,) * 2,
        limits,
        [],
        [],
        lambda: None,
        str,
    )
    return Chat(Answers(session, generate), Conversation(template, tokenizer, generate.system), generate)
