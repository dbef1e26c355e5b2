"""The console script: minds signals and streams before all else is imported, which takes half a second."""

import os
import sys

from tplaunch.launcher import signals


def main() -> int:
    """Returns the exit code: 0, 1 for a failed run, 2 for bad input, 128 + number after a signal."""
    signals.exit_at_once()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else its threads complain of every fork
    os.umask(os.umask(0) & ~0o700)  # with one that takes the owner's permissions no folder could be entered
    from tplaunch.worker.faults import fault_sentence

    try:
        from tplaunch.launcher.streams import prepare_streams

        prepare_streams()
        from tplaunch.launcher import cli
    except Exception as error:  # where there is no memory or no descriptor for the libraries
        sentence = fault_sentence(error)
        if sentence is None:
            raise
        if sys.stderr is not None:  # else print would take standard output
            print(f"tplaunch: {sentence}", file=sys.stderr)
        return 1
    try:
        try:
            signals.raise_once()
            return cli.main()
        finally:
            signals.ignore()  # what is left is Python's own end
    except signals.Signalled as signalled:  # between the lines of cli.main, and of this function
        return signalled.exit_code


if __name__ == "__main__":
    sys.exit(main())
