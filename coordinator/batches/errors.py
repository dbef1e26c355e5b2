"""The error of files that people give to be evaluated."""


class InputError(ValueError):
    """A file that can't be used as it is, or a place where none can be written; one sentence."""
