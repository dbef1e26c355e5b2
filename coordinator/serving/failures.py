"""The errors after which nothing more can be computed with a loaded model."""


class RunError(RuntimeError):
    """A worker failed; the message names it."""


class LastingError(RunError):
    """A failure that would come again: ranks that are started again can't cure it."""


class ClosedError(RuntimeError):
    """The model was closed, or its run has failed before; nothing more can be computed with it."""
