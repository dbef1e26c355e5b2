"""Finds the Vulkan drivers that the tests run on, and says what to do where one is missing.

Knows files and environment variables only; it loads no driver.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"


@dataclass(frozen=True)
class Driver:
    """A Vulkan driver by its manifest, the JSON file that tells the loader where its library is."""

    name: str
    manifest: Path | None  # None where the driver is not here
    how_to_get: str
    required: bool  # a test that misses it fails instead of skipping


def distribution() -> str:
    """Which Linux distribution this is (`debian`, `ubuntu`, ...), or an empty string."""
    try:
        return platform.freedesktop_os_release().get("ID", "")
    except OSError:
        return ""


def vulkan_files(pattern: str) -> Iterator[Path]:
    """Files below the folders in which the Vulkan loader looks for drivers and layers."""
    user_data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    for folder in (Path("/usr/share"), Path("/usr/local/share"), Path("/etc"), user_data):
        yield from sorted((folder / "vulkan").glob(pattern))


def find_lavapipe() -> Driver:
    """Mesa's driver for CPUs."""
    manifest = next(vulkan_files("icd.d/lvp_icd*.json"), None)
    return Driver("lavapipe", manifest, "install Mesa's Vulkan drivers (mesa-vulkan-drivers)", IN_CI)


def find_swiftshader() -> Driver:
    """Google's driver for CPUs, which `.ci/fetch-swiftshader.sh` fetches, on Debian only."""
    manifest = REPOSITORY / ".cache/swiftshader/vk_swiftshader_icd.json"
    required = IN_CI and distribution() == "debian"
    how_to_get = "run .ci/fetch-swiftshader.sh (Debian only: elsewhere no package holds it)"
    return Driver("swiftshader", manifest if manifest.exists() else None, how_to_get, required)


def find_radv() -> Driver:
    """Mesa's driver for AMD cards, which compiles for cards that are not here; Debian 12's own is too old."""
    manifest: Path | None = REPOSITORY / ".cache/mesa/radeon_icd.json"
    if manifest is not None and not manifest.exists():
        is_new = distribution() == "debian" and not Path("/etc/debian_version").read_text("utf8").startswith(
            "12"
        )
        manifest = next(vulkan_files("icd.d/radeon_icd*.json"), None) if is_new else None
    required = IN_CI and distribution() == "debian"
    how_to_get = "run .ci/fetch-mesa.sh (Debian 12), or install mesa-vulkan-drivers (Debian 13)"
    return Driver("RADV", manifest, how_to_get, required)


def find_validation_layer() -> Driver:
    """The Khronos validation layer: a layer, not a driver, but found and missed in the same way."""
    manifest = next(vulkan_files("explicit_layer.d/VkLayer_khronos_validation.json"), None)
    return Driver("the Khronos validation layer", manifest, "install vulkan-validationlayers", IN_CI)


def driver_variables(*manifests: Path) -> dict[str, str]:
    """What makes the Vulkan loader see these drivers and no other. It does not keep their order."""
    paths = os.pathsep.join(map(str, manifests))
    # VK_ICD_FILENAMES is the older name; loaders before 1.3.207 know only that one.
    return {"VK_DRIVER_FILES": paths, "VK_ICD_FILENAMES": paths}
