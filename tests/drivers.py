"""Finds the Vulkan drivers that the tests run on, and says what to do where one is missing.

Knows files and environment variables only; it loads no driver.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MATRICES_LIBC = 2.41  # that the lavapipe of `.ci/fetch-matrices-mesa.sh` is built for
IN_CI = os.environ.get("CI") == "true"
CARD_MANIFEST = os.environ.get(
    "TPLAUNCH_TEST_ICD", ""
)  # of the driver of a card that tests are to run on, too


@dataclass(frozen=True)
class Driver:
    """A Vulkan driver by its manifest, the JSON file that tells the loader where its library is."""

    name: str
    manifest: Path | None  # None where the driver is not here
    how_to_get: str
    required: bool  # a test that misses it fails instead of skipping


def distribution() -> str:
    """Which Linux distribution this is (`debian`, `ubuntu`, ...), or an empty string."""
    return os_release().get("ID", "")


def os_release() -> dict[str, str]:
    """Reads os-release; returns nothing where there is no such file."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def is_new_debian() -> bool:
    """Returns true on Debian 13 or later, with Mesa 25.0 or later. Testing and unstable have no number."""
    return distribution() == "debian" and float(os_release().get("VERSION_ID", "inf")) >= 13


def libc_version() -> float:
    """Returns the C library's version, of which a process may have another than the system; 0 for others."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return float(version) if name == "glibc" else 0.0


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


def find_mesa() -> Driver:
    """Lavapipe as people have it today, which `.ci/fetch-mesa.sh` fetches where the system's is of 2022.

    In `make test-matrices` it is a newer one, with cooperative matrices.
    """
    matrices = REPOSITORY / ".cache/matrices/lvp_icd.json"
    if matrices.exists() and libc_version() >= MATRICES_LIBC:
        return Driver("mesa", matrices, "", required=False)
    if is_new_debian():
        reason = "the system's own lavapipe is as new, so the tests on that one are these"
        return Driver("mesa", None, reason, required=False)
    return _fetched_from_backports("mesa", "lvp_icd.json")


def find_radv() -> Driver:
    """Mesa's driver for AMD's cards, which compiles without one where RADV_FORCE_FAMILY names a family."""
    if not is_new_debian():
        return _fetched_from_backports("radv", "radeon_icd.json")
    manifest = next(vulkan_files("icd.d/radeon_icd*.json"), None)
    return Driver("radv", manifest, "install Mesa's Vulkan drivers (mesa-vulkan-drivers)", IN_CI)


def _fetched_from_backports(name: str, manifest_name: str) -> Driver:
    manifest = REPOSITORY / ".cache/mesa" / manifest_name
    required = IN_CI and distribution() == "debian"
    how_to_get = "run .ci/fetch-mesa.sh (Debian 12 only: it takes Mesa 25.0 from that release's backports)"
    return Driver(name, manifest if manifest.exists() else None, how_to_get, required)


def find_validation_layer() -> Driver:
    """The Khronos validation layer: a layer, not a driver, but found and missed in the same way.

    The one that `.ci/fetch-swiftshader.sh` fetches is the newest.
    """
    name = "VkLayer_khronos_validation.json"
    fetched = REPOSITORY / ".cache/validation" / name
    manifest = fetched if fetched.exists() else next(vulkan_files(f"explicit_layer.d/{name}"), None)
    return Driver("the Khronos validation layer", manifest, "install vulkan-validationlayers", IN_CI)


def find_card() -> Driver:
    """The driver that TPLAUNCH_TEST_ICD names, so that tests with a device run on its first one, too."""
    manifest = Path(CARD_MANIFEST)
    how_to_get = f"TPLAUNCH_TEST_ICD={CARD_MANIFEST} is no file; name the manifest of a card's driver"
    return Driver("card", manifest if manifest.is_file() else None, how_to_get, required=True)


# The drivers that tests with a device run on, each by its name; a card only where one is named.
CPU_FINDERS = {"lavapipe": find_lavapipe, "swiftshader": find_swiftshader, "mesa": find_mesa}
FINDERS = CPU_FINDERS | ({"card": find_card} if CARD_MANIFEST else {})


def driver_variables(*manifests: Path) -> dict[str, str]:
    """Returns the variables by which the Vulkan loader sees only these drivers, in any order."""
    paths = os.pathsep.join(map(str, manifests))
    # VK_ICD_FILENAMES is the older name; loaders before 1.3.207 know only that one.
    return {"VK_DRIVER_FILES": paths, "VK_ICD_FILENAMES": paths}
