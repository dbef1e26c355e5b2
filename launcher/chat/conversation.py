"""A conversation: its messages, and the token ids that they are for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.chat.guard import begins_with_control, encode_guarded, guarded
from tplaunch.coordinator.text.chat.template import ChatTemplate, encode_chat
from tplaunch.coordinator.text.tokenizer import Tokenizer

MAX_KNOWN = 32  # beginnings that are kept: as many turns can be taken back with all tokens as they were


@dataclass(frozen=True)
class Turn:
    """A person's message and the model's answer."""

    message: str
    answer: str


@dataclass(frozen=True)
class _Known:
    """A beginning of a rendered conversation, and its tokens as the model has computed them."""

    text: str
    tokens: tuple[int, ...]


class Conversation:
    """Renders its messages by a template, and keeps the tokens of answers as they were generated.

    Written anew, an answer may become other tokens than those that made it. The model would then have to
    compute it again; and it would read another text than it wrote.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, system: str | None = None) -> None:
        self._template, self._tokenizer = template, tokenizer
        self.system = system
        self.turns: list[Turn] = []
        self._known: list[_Known] = []

    def prompt(self, message: str) -> list[int]:
        """The token ids of the conversation with one more message, up to where the answer begins.

        Raises ChatTemplateError and TokenizerError.
        """
        rendered = self._rendered(message)
        tokens = self._tokens(rendered)
        self._keep(rendered, tokens)
        return tokens

    def add(self, message: str, answer: str, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """Takes an answer; prompt: what `prompt` gave for the message; tokens: those of the answer."""
        self.turns.append(Turn(message, answer))
        rendered = next(
            (known.text for known in reversed(self._known) if known.tokens == tuple(prompt)), None
        )
        if rendered is not None and tokens:
            self._keep(rendered + guarded(self._tokenizer, answer), (*prompt, *tokens))

    def take_back(self) -> Turn | None:
        """Forgets the last turn, and returns it; None where there is none."""
        return self.turns.pop() if self.turns else None

    def drop_oldest(self) -> bool:
        """Forgets the oldest turn, never the system prompt; False where there is none."""
        return self.turns.pop(0) is not None if self.turns else False

    def clear(self) -> None:
        """Forgets all but the system prompt."""
        self.turns.clear()
        self._known.clear()

    def messages(self) -> list[dict[str, str]]:
        """The conversation as a list of messages with role and content."""
        found = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            found.append({"role": "user", "content": turn.message})
            found.append({"role": "assistant", "content": turn.answer})
        return found

    def _rendered(self, message: str) -> str:
        messages = [*self.messages(), {"role": "user", "content": message}]
        return self._template.render(
            [{**each, "content": guarded(self._tokenizer, each["content"])} for each in messages]
        )

    def _tokens(self, rendered: str) -> list[int]:
        for known in sorted(self._known, key=lambda known: len(known.text), reverse=True):
            if rendered.startswith(known.text):
                rest = rendered[len(known.text) :]
                if not rest or begins_with_control(self._tokenizer, rest):
                    return [*known.tokens, *encode_guarded(self._tokenizer, rest)]
        return encode_chat(self._tokenizer, rendered)

    def _keep(self, text: str, tokens: Sequence[int]) -> None:
        self._known = [known for known in self._known if known.text != text][-MAX_KNOWN + 1 :]
        self._known.append(_Known(text, tuple(tokens)))
