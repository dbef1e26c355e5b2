"""Runs a command that tells a story, shows that as it comes, and fails where it does not end well.

    python -m examples.story "Once upon a time" tplaunch model.gguf -p "Once upon a time"

The first argument is what the story begins with, which the command does not repeat into a pipe. Ends with the
command's exit code if that is not 0, else with 1 where the story is cut off or goes round in circles.
"""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from collections.abc import Sequence

MIN_WORDS = 50
SENTENCE_ENDS = (".", "!", "?", '."', '!"', '?"')
LONGEST_CIRCLE = 20  # words
TIMES_ROUND = 3
SHOWN_WORDS = 8  # of a bad end


def main(arguments: Sequence[str]) -> int:
    """Runs `BEGINNING COMMAND...`, and returns the exit code."""
    beginning, *command = arguments
    try:
        story, status = tell(beginning, command)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    fault = None if status else fault_of(story)
    if fault is None:
        return status
    end = " ".join(story.split()[-SHOWN_WORDS:])
    print(
        f"demo: the story does not end well, {fault}; it ends in {end!r}: a device or its driver computes"
        " wrongly; `tplaunch check` finds out which, and `--devices cpu` does without",
        file=sys.stderr,
    )
    return 1


def tell(beginning: str, command: Sequence[str]) -> tuple[str, int]:
    """The story, which is on standard output by then, and the command's exit code."""
    story, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(4096):
            text = decoder.decode(piece)
            text = text if story else beginning + text
            print(text, end="", flush=True)
            story += text
    return story, process.returncode


def fault_of(story: str) -> str | None:
    """Returns the fault of a story, as a clause; None where it ends well."""
    words = story.split()
    if "\ufffd" in story:
        return "it holds bytes that are no text"
    for length in range(1, LONGEST_CIRCLE + 1):
        for start in range(len(words) - TIMES_ROUND * length + 1):
            circle = words[start : start + length]
            if circle * TIMES_ROUND == words[start : start + TIMES_ROUND * length]:
                return f"it repeats {' '.join(circle)!r}"
    if not story.rstrip().endswith(SENTENCE_ENDS):
        return "its last sentence is not whole"
    return f"it has only {len(words)} words" if len(words) < MIN_WORDS else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
