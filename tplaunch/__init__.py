"""tplaunch: tensor-parallel LLM inference on Vulkan devices, one process per device.

The five folders of the repository are the packages of this one (docs/decisions.md says why): nothing else is
installed, so no other project's names are taken. The Python API is imported when it is first asked for: the
command line and the workers import this, too.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = (
    False  # typing's, which takes longer to import than all else that the command line needs first
)
if TYPE_CHECKING:
    from tplaunch.async_llm import AsyncLLM
    from tplaunch.coordinator.evaluation.scoring import Score
    from tplaunch.coordinator.serving.failures import ClosedError, RunError
    from tplaunch.coordinator.serving.request import RequestError
    from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
    from tplaunch.coordinator.serving.sampling.structured import StructuredOutputsParams
    from tplaunch.launcher.errors import UsageError
    from tplaunch.llm import LLM
    from tplaunch.outputs import CompletionOutput, GenerationError, Logprob, RequestOutput

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "ClosedError",
    "CompletionOutput",
    "GenerationError",
    "Logprob",
    "RequestError",
    "RequestOutput",
    "RunError",
    "SamplingParams",
    "Score",
    "StructuredOutputsParams",
    "UsageError",
    "__version__",
]
_MODULES = {
    "LLM": "llm",
    "AsyncLLM": "async_llm",
    "ClosedError": "coordinator.serving.failures",
    "CompletionOutput": "outputs",
    "GenerationError": "outputs",
    "Logprob": "outputs",
    "RequestError": "coordinator.serving.request",
    "RequestOutput": "outputs",
    "RunError": "coordinator.serving.failures",
    "SamplingParams": "coordinator.serving.sampling.parameters",
    "Score": "coordinator.evaluation.scoring",
    "StructuredOutputsParams": "coordinator.serving.sampling.structured",
    "UsageError": "launcher.errors",
}


if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # the next time it is found without this
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
