"""Compiles a few kernels with what an earlier run has kept: `python -m tests.vulkan.keep_pipelines FOLDER`.

Prints how many bytes the driver was given of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tplaunch.worker.vulkan import listing
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipeline_cache import PipelineCache
from tplaunch.worker.vulkan.pipelines import Pipelines

KERNELS = ("sum_norm", "quantize_q8", "activate")


def main() -> None:
    listing.PCI_EXTENSION = listing.BUDGET_EXTENSION = ""  # a card that is not there passes for one that is
    context, folder = Context(0), Path(sys.argv[1])
    found = PipelineCache(context, folder)
    print(found.num_bytes)
    found.close()
    pipelines = Pipelines(context, folder)
    pipelines.make(KERNELS)
    for name in KERNELS:
        assert pipelines[name]
    pipelines.keep()
    pipelines.close()
    context.close()


if __name__ == "__main__":
    main()
