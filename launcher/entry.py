"""The console script: minds signals before anything else is imported, which takes half a second."""

import sys

from tplaunch.launcher import signals


def main() -> int:
    """Returns the exit code: 0, 1 for a failed run, 2 for bad input, 128 + number after a signal."""
    signals.exit_at_once()
    from tplaunch.launcher import cli
    from tplaunch.launcher.standard_error import forgive_standard_error

    forgive_standard_error()
    try:
        signals.raise_once()
        return cli.main()
    except signals.Signalled as signalled:  # between the lines of cli.main
        return signalled.exit_code
    finally:
        signals.ignore()  # what is left is Python's own end


if __name__ == "__main__":
    sys.exit(main())
