"""A prompt as text: out of a file, and on to token ids."""

from __future__ import annotations

from pathlib import Path

from tplaunch.coordinator.text.tokenizer import Tokenizer
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.lines import say
from tplaunch.launcher.streams import MAX_PROMPT_BYTES
from tplaunch.launcher.text_file import read_some

GGUF_MAGIC = b"GGUF"
MAX_CHECKED = 100_000  # characters: a remark on longer prompts would cost their encoding once more


def read_prompt_file(path: Path) -> str:
    """The text of a file in UTF-8, without the newline that ends its last line. Raises UsageError.

    The file may be a pipe, such as a shell's <(command).
    """
    content = read_some(path, MAX_PROMPT_BYTES, "-f ")
    if content.startswith(GGUF_MAGIC):
        raise UsageError(f"-f {path}: that is a model; -f gives a file with a prompt, -m one with a model")
    if len(content) > MAX_PROMPT_BYTES:
        raise UsageError(f"-f {path} has more than {MAX_PROMPT_BYTES >> 20} MiB: that is no prompt")
    return content.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")


def encode_prompt(tokenizer: Tokenizer, text: str, parse_special: bool) -> list[int]:
    """The token ids of a text to continue. Raises TokenizerError.

    parse_special: the texts of control tokens, such as <|im_end|>, become these; else they stay text, and a
    remark says so.
    """
    if not parse_special:
        say_what_stays_text(tokenizer, text)
    return tokenizer.encode(text, parse_special=parse_special)


def say_what_stays_text(tokenizer: Tokenizer, text: str) -> None:
    """Says of a control token's text in a prompt that it will not be that token. Raises TokenizerError."""
    if len(text) > MAX_CHECKED:
        return
    tokens, parsed = tokenizer.encode(text), tokenizer.encode(text, parse_special=True)
    special = next((token for token in parsed if token not in tokens), None)
    if special is not None and len(parsed) < len(tokens):
        name = tokenizer.token_text(special)
        say(
            f"{name:.80} stays text in the prompt; --parse-special makes tokens of such words, and puts no"
            " chat template around them"
        )
