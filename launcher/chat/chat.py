"""A chat: messages are answered one after the other, as far as the context has room for them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tplaunch.coordinator.serving.request import Request
from tplaunch.launcher.chat.answers import Answers, Stop
from tplaunch.launcher.chat.conversation import Conversation
from tplaunch.launcher.generate_config import GenerateConfig
from tplaunch.launcher.lines import line_width, shown, wrapped


class ChatError(ValueError):
    """A message can't be answered; the sentence says why and what to do."""


@dataclass
class Totals:
    """The cost of a whole chat so far, in tokens and seconds."""

    num_answers: int = 0
    num_tokens: int = 0  # of the answers
    num_computed: int = 0  # tokens of prompts that no cache had
    num_cached: int = 0
    seconds: float = 0.0  # of steps


class Chat:
    """A conversation with a model that is loaded."""

    def __init__(self, answers: Answers, conversation: Conversation, generate: GenerateConfig) -> None:
        self.conversation = conversation
        self.params = generate.sampling
        self.stop = Stop()
        self.totals = Totals()
        self.last: Request | None = None
        self.context_length = answers.context_length
        self._answers, self._drops_oldest = answers, generate.drops_oldest

    def answer(self, message: str) -> bool:
        """Answers, and keeps both; False where the answer was stopped before it began, and nothing is kept.

        Raises ChatError, ChatTemplateError, TokenizerError and RequestError: nothing is kept then, too.
        """
        self.stop.reset()
        prompt = self._prompt(message)
        request = self._answers.make(prompt, self.params, self.stop)
        self._count(request)
        output = request.outputs[0]
        if output.finish_reason == "cancelled" and not output.token_ids:
            tell("The message is taken back.")
            return False
        # Behind a stop text there may be tokens that are not part of the answer.
        tokens = [] if isinstance(output.stop_reason, str) else output.token_ids
        self.conversation.add(message, output.text, prompt, tokens)
        return True

    def _prompt(self, message: str) -> list[int]:
        """The tokens, if need be without the oldest turns, as far as these may go."""
        room = self.context_length - 1
        turns = list(self.conversation.turns)
        prompt = self.conversation.prompt(message)
        # Leaving out a turn has all behind it computed again, so room is made for several answers.
        least = min(self.params.max_tokens or room, room // 8)
        if self._drops_oldest and len(prompt) + least > room:
            while len(prompt) + max(least, room // 4) > room and self.conversation.drop_oldest():
                prompt = self.conversation.prompt(message)
        if len(prompt) > room:
            self.conversation.turns[:] = turns
            raise ChatError(self._too_long(len(self.conversation.prompt(message))))
        num_dropped = len(turns) - len(self.conversation.turns)
        if num_dropped:
            named = "turn is" if num_dropped == 1 else f"{num_dropped} turns are"
            tell(f"The oldest {named} left out: the context holds {self.context_length} tokens.")
        return prompt

    def _too_long(self, num_tokens: int) -> str:
        room = f"the context of {self.context_length} has room for {self.context_length - 1}"
        if not self.conversation.turns:
            return f"the message has {num_tokens} tokens, and {room}; shorten it, or give more with --context"
        more = "" if self._drops_oldest else ", --drop-oldest lets the oldest turns go"
        return (
            f"the conversation with this message has {num_tokens} tokens, and {room}; /clear begins anew,"
            f" /undo takes back the last turn, --context gives more{more}"
        )

    def _count(self, request: Request) -> None:
        self.last, totals, times = request, self.totals, request.times
        totals.num_answers += 1
        totals.num_tokens += len(request.outputs[0].token_ids)
        totals.num_cached += times.cached_tokens
        totals.num_computed += times.computed_tokens
        totals.seconds += times.prompt_seconds + times.decode_seconds


def tell(text: str, indent: str = "") -> None:
    """Says something to the person at the terminal; answers alone go to standard output."""
    print(wrapped(shown(text), indent, line_width()), file=sys.stderr)
