"""The errors that end a command with a sentence, and the exit codes that they stand for."""

EXIT_FAILURE, EXIT_USAGE = 1, 2


class UsageError(ValueError):
    """The command can't be carried out as given: one sentence that says what to change. Exit code 2."""
