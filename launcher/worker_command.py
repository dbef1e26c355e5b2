"""The words that start a worker."""

from __future__ import annotations

import os

from tplaunch.worker.own_python import python_words

# Beats begin before all that takes time to import.
WORKER_COMMAND = python_words("""from tplaunch.worker.beating import beat_as_told
beat_as_told(sys.argv)
from tplaunch.worker.__main__ import main
sys.exit(main())""")


def job_words() -> list[str]:
    """The words before a job's own: of a worker's process that ends with this one."""
    return [*WORKER_COMMAND, f"--parent={os.getpid()}"]
