"""The settings of `tplaunch run`: the text to generate, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.errors import UsageError


@dataclass(frozen=True)
class GenerateConfig:
    """The text to generate, and how it is shown."""

    prompt: str | None
    tokens: list[int] | None  # a prompt as ids
    sampling: SamplingParams
    json: bool
    ledger: bool = False  # say where the time went
    trace: Path | None = None
    from_standard_input: bool = False  # also where that is a terminal
    parse_special: bool = False  # texts of control tokens in a prompt become these
    chats: bool = True  # where the model has a chat template
    system: str | None = None  # the system prompt of a chat
    chat_template: str | None = None  # a file, or the name of one of the model's templates
    drops_oldest: bool = False  # turns of a chat that has no room for more

    def __post_init__(self) -> None:
        if self.tokens is not None and (self.prompt is not None or self.from_standard_input):
            raise UsageError("-p and --tokens both give a prompt; use one of them")
        for option, value in (("--system-prompt", self.system), ("--chat-template", self.chat_template)):
            if value is not None and not self.continues_chat:
                other = "--no-chat" if not self.chats else "--tokens" if self.tokens else "--parse-special"
                raise UsageError(f"{option} is for a chat, and {other} continues a text instead")

    @property
    def continues_chat(self) -> bool:
        """Tells whether a prompt is a message, where there is a template; else it is a text to continue.

        With --tokens and --parse-special a prompt has what a template would write already.
        """
        return self.chats and self.tokens is None and not self.parse_special
