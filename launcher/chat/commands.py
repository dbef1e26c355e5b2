"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tplaunch.launcher.chat.answers import speed
from tplaunch.launcher.chat.chat import Chat, tell
from tplaunch.launcher.chat.settings import SettingError, changed, described
from tplaunch.launcher.lines import say

HELP = {
    "/clear": "forget the conversation, but not the system prompt",
    "/undo": "take back the last message and its answer",
    "/retry": "answer the last message again",
    "/system TEXT": 'show or change the system prompt; "" for none',
    "/set FIELD VALUE": "show or change how tokens are picked, such as /set temperature 0.3",
    "/stats": "tokens, speed, and how full the context is",
    "/save FILE": "write the conversation as JSON messages",
    "/help": "show this",
    "/quit": "end, as Ctrl-D does",
}
KEYS = (
    'A line that ends in \\ goes on in the next; three double quotes (""") open and close a block of lines.'
    " Ctrl-C stops an answer and keeps the model, Ctrl-D ends. A message that begins with a slash is written"
    " with a blank before it."
)
_OTHER_NAMES = {
    "/exit": "/quit",
    "/bye": "/quit",
    "/?": "/help",
    "/": "/help",
    "/regen": "/retry",
    "/reset": "/clear",
}


class Commands:
    """Carries out the commands of one chat."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._saved: set[Path] = set()  # files that are this chat's own
        self.has_ended = False

    def run(self, line: str) -> None:
        """One command; what is wrong with it is said."""
        name, _, rest = line.strip().partition(" ")
        name, rest = _OTHER_NAMES.get(name.lower(), name.lower()), rest.strip()
        with_rest: Mapping[str, Callable[[str], None]] = {
            "/system": self._system, "/set": self._set, "/save": self._save,
        }  # fmt: skip
        alone: Mapping[str, Callable[[], None]] = {
            "/clear": self._clear, "/undo": self._undo, "/retry": self._retry, "/stats": self._stats,
            "/help": show_help, "/quit": self._quit,
        }  # fmt: skip
        if name in with_rest:
            with_rest[name](rest)
        elif name not in alone:
            near = difflib.get_close_matches(name, [*with_rest, *alone, *_OTHER_NAMES], n=1)
            hint = f"did you mean {near[0]}?" if near else "/help lists those there are."
            say(f"there is no command {name:.40}; {hint} A message begins with a blank before its slash.")
        elif rest:
            say(f"{name} takes nothing behind it, and {rest!r:.40} follows")
        else:
            alone[name]()

    def _clear(self) -> None:
        self._chat.conversation.clear()
        tell("The conversation begins anew.")

    def _undo(self) -> None:
        turn = self._chat.conversation.take_back()
        tell("There is nothing to take back." if turn is None else f"Taken back: {turn.message:.60}")

    def _retry(self) -> None:
        conversation, params = self._chat.conversation, self._chat.params
        turn = conversation.take_back()
        if turn is None:
            tell("There is no message to answer again.")
            return
        if params.is_greedy or params.seed is not None:
            why = "temperature 0 gives" if params.is_greedy else "the seed gives"
            tell(f"The answer may be the same: {why} the same tokens for the same text.")
        is_answered = False
        try:
            is_answered = self._chat.answer(turn.message)
        finally:
            if not is_answered:
                conversation.turns.append(turn)

    def _system(self, text: str) -> None:
        conversation = self._chat.conversation
        if text:
            conversation.system = None if text in ('""', "''") else text
        system = conversation.system
        tell("There is no system prompt." if system is None else f"The system prompt is: {system}")

    def _set(self, words: str) -> None:
        if not words:
            _table(described(self._chat.params))
            return
        try:
            self._chat.params, field = changed(self._chat.params, words)
        except SettingError as error:
            say(str(error))
        else:
            _table({field: described(self._chat.params)[field]})

    def _stats(self) -> None:
        last, totals = self._chat.last, self._chat.totals
        if last is None:
            tell("Nothing has been answered yet.")
            return
        num_tokens = len(last.outputs[0].token_ids)
        tell(f"last answer: {speed(last.times, num_tokens)}")
        held = last.times.prompt_tokens + num_tokens
        tell(f"context: {held} of {self._chat.context_length} tokens")
        tell(
            f"all {totals.num_answers} answers: {totals.num_tokens} tokens; {totals.num_computed} tokens of"
            f" prompts computed and {totals.num_cached} found in the cache, in {totals.seconds:.1f} s"
        )

    def _save(self, name: str) -> None:
        if not name:
            say("/save needs the name of a file, such as /save chat.json")
            return
        messages = self._chat.conversation.messages()
        text = json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
        try:
            path = Path(name).expanduser().absolute()
            with path.open("wb" if path in self._saved else "xb") as file:
                self._saved.add(path)
                file.write(text.encode("utf-8", "backslashreplace"))
        except FileExistsError:
            say(f"{name} is there already, and not of this chat; name another file")
        except (OSError, RuntimeError, ValueError) as error:  # no home, a name with a zero byte
            reason = error.strerror if isinstance(error, OSError) else error
            say(f"{name} can't be written: {reason}")
        else:
            tell(f"{len(messages)} messages are in {name}.")

    def _quit(self) -> None:
        self.has_ended = True


def show_help() -> None:
    _table(HELP)
    tell(KEYS)


def _table(texts: Mapping[str, str]) -> None:
    width = max(map(len, texts))
    for name, text in texts.items():
        tell(f"{name:<{width}}  {text}", indent=" " * (width + 2))
