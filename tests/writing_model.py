"""A server whose fake model writes what a test tells it, as far as nothing else is enforced.

Its likeliest tokens are those of a script, and without one it writes readable nonsense that comes to ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.answers import control_tokens
from tests.fake_session import FakeRun, fake_opened
from tests.serving import Served, served
from tests.vocabularies import CONTROL, byte_level_metadata
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.fake_model import FakeModel, Floats
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.text.tokenizer import Tokenizer, load_tokenizer

END = "<end-of-text>"
# Longer tokens, some of which hold the end of a marker and what comes behind it.
JOINS = [("t", "h"), ("<", "/"), ('"', ":"), ("{", '"'), ("}", "}"), (">", "{"), (">", "\n"), ("\n", "\n")]
LIMITS = Limits(
    context_length=16384, num_blocks=2048, block_length=16, max_rows=4096, max_logit_rows=16, max_sequences=8
)
SURE = 1000  # added to a logit: nothing that may come instead is ever drawn
CLOSING = (*"\"'}])>:,", '<|"|>')


class WritingModel:
    """Stands before a FakeModel. It writes for one request at a time, the same for all of its texts."""

    def __init__(self, model: FakeModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._start: int | None = None  # the position of the prompt's last token
        self._script: Sequence[int] | None = None
        size = tokenizer.vocabulary_size
        shown = [tokenizer.token_bytes(token) for token in range(size)]
        names = [text or tokenizer.token_text(token).encode() for token, text in enumerate(shown)]
        self._bonus = np.full(size, -20, np.float32)
        for token, name in enumerate(names):
            if name.decode("utf-8", "replace") in CLOSING:
                self._bonus[token] = 4
            elif name.isalpha():
                self._bonus[token] = 0
        self._end = next(iter(tokenizer.eos_token_ids))
        self._bonus[self._end] = 20

    def write(self, script: str | None) -> None:
        """Tells what comes next; None: whatever comes."""
        encoded = None
        if script is not None:
            encoded = self._tokenizer.encode(script, add_special=False, parse_special=True)
        self._script = None if encoded is None else [*encoded, self._end]
        self._start = None

    def run(self, step: Step) -> Floats:
        """See FakeModel."""
        logits = self._model.run(step) + self._bonus
        if self._script is None:
            return logits
        starts: list[int] = []
        for _, start, length, *_ in step.runs.reshape(-1, 5).tolist():
            starts += range(start, start + length)
        for place, row in enumerate(step.logit_rows.tolist()):
            if self._start is None:
                self._start = starts[row]
            index = starts[row] - self._start
            if 0 <= index < len(self._script):
                logits[place, self._script[index]] += SURE
        return logits


class Writing:
    """A server, and the model that writes its answers."""

    def __init__(self, server: Served, run: FakeRun) -> None:
        self.server, self._run = server, run

    @property
    def model(self) -> WritingModel:
        assert self._run.channel is not None
        model: Any = self._run.channel.model
        assert isinstance(model, WritingModel)
        return model

    def chat(self, script: str | None, content: str = "What?", **body: Any) -> Any:
        """Returns the choice of a chat completion, or the error's sentence."""
        self.model.write(script)
        asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 1500, "seed": 1}
        answer = self.server.post("/v1/chat/completions", **{**asked, **body}).json()
        return answer["error"]["message"] if "error" in answer else answer["choices"][0]


@contextlib.contextmanager
def writing(
    template: str, added: Sequence[str] | None = None, kind: int = CONTROL, **options: Any
) -> Iterator[Writing]:
    """Serves such a model. added: names of tokens, or what looks so in the template; kind: of these."""
    names = [*control_tokens(template), "<|flush|>"] if added is None else added
    tokens = [(name, kind) for name in names if name != END]
    end = 256 + len(JOINS)
    metadata = byte_level_metadata(JOINS, [(END, CONTROL), *tokens], eos_token_id=end)
    metadata["tokenizer.chat_template"] = template
    tokenizer = load_tokenizer(metadata)
    run = FakeRun(LIMITS, metadata=metadata)

    def replace_model(channel: FakeChannel) -> None:
        assert channel.model is not None
        model: Any = WritingModel(channel.model, tokenizer)
        channel.model = model

    run.on_load = replace_model
    opened = fake_opened(run, metadata)
    try:
        with served(opened, **options) as server:
            yield Writing(server, run)
    finally:
        opened.close()
