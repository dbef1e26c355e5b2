"""tplaunch: tensor-parallel LLM inference on Vulkan devices, one process per device.

The five folders of the repository are the packages of this one (docs/decisions.md says why): nothing else is
installed, so no other project's names are taken.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
