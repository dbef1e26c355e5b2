"""Shared parts of the tests: a marker per folder, Vulkan drivers, and a way to run the command line.

Where a driver is missing a test skips, saying how to get it; with CI=true it fails.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.command_line import CommandLine
from tests.drivers import (
    CPU_FINDERS,
    IN_CI,
    REPOSITORY,
    Driver,
    driver_variables,
    find_lavapipe,
    find_swiftshader,
    find_validation_layer,
)

TESTS = Path(__file__).resolve().parent
MARKED_FOLDERS = ("hosts", "multiprocess", "conformance", "server", "vulkan", "unit")  # longest tests first
LONGEST_FILE = "test_shaders_spirv.py"  # compiles all kernels

# No deadline: a shared core may stall for any time. In CI every run draws the same examples.
settings.register_profile("tplaunch", deadline=None, derandomize=IN_CI, print_blob=True)
settings.load_profile("tplaunch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--validate",
        action="store_true",
        help="run every Vulkan device under the Khronos validation layer; an error of its fails the test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Vulkan loaders in this process and its children find the newest validation layer, and no other.

    Children have Ctrl-C as a terminal gives it, also where a shell started this process in the background.

    Of several processes that share the tests (pytest-xdist) each has its own share of the cores: a run gives
    its ranks on CPU drivers the first cores, which would be the same ones for all.

    Children may keep the bytecode of modules. Tests start some thousands of Python processes, each of which
    would compile all that it imports where the environment forbids that, as images for containers often do.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    config.option.loadscopereorder = False  # pytest-xdist's order by numbers of tests; see below
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if number:
        cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, cores[int(number) :: count] or cores)
    layer = find_validation_layer().manifest
    if layer is not None:
        os.environ["VK_LAYER_PATH"] = str(layer.parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test by the folder it is in; what lies in tests/ itself is a unit test.

    Where several processes share the tests, file by file, the files with the longest tests come first:
    one of them at the end would leave all cores but one idle.
    """
    for item in items:
        item.add_marker(folder_of(item))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (item.path.name != LONGEST_FILE, MARKED_FOLDERS.index(folder_of(item))))


def folder_of(item: pytest.Item) -> str:
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    return folder if folder in MARKED_FOLDERS else "unit"


def manifest_of(driver: Driver) -> Path:
    """The driver's manifest; without it the test skips, or fails where the driver must be there."""
    if driver.manifest is not None:
        return driver.manifest
    reason = f"{driver.name} is not here: {driver.how_to_get}"
    if driver.required:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def environment_with(*drivers: Driver) -> dict[str, str]:
    """This process's environment, in which the Vulkan loader sees these drivers only."""
    return {**os.environ, **driver_variables(*map(manifest_of, drivers))}


@pytest.fixture(scope="session")
def lavapipe_env() -> dict[str, str]:
    """An environment for subprocesses in which Mesa's lavapipe is the only Vulkan driver."""
    return environment_with(find_lavapipe())


@pytest.fixture(scope="session")
def both_drivers_env() -> dict[str, str]:
    """An environment for subprocesses that has lavapipe and SwiftShader: two vendors on one machine."""
    return environment_with(find_lavapipe(), find_swiftshader())


@pytest.fixture(scope="session")
def all_drivers_env() -> dict[str, str]:
    """An environment for subprocesses with every driver for CPUs: lavapipe of two ages, and SwiftShader."""
    return environment_with(*(find() for find in CPU_FINDERS.values()))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data beside the repository; it is not part of it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no reference data: ../shared is not there")
    return folder


@pytest.fixture(scope="session")
def device_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XDG_CACHE_HOME of all runs: what is measured or compiled for a device is so once a session.

    Processors' kernels are compiled once for all processes that share the tests (pytest-xdist). It takes
    seconds for each, and a kernel's file is whole and right, or is compiled anew.
    """
    folder, together = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        together = together.parent
    kernels = together / "kernels"
    kernels.mkdir(mode=0o700, exist_ok=True)
    (folder / "tplaunch").mkdir(mode=0o700)
    (folder / "tplaunch/kernels").symlink_to(kernels)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(device_cache: Path) -> Iterator[None]:
    """Keeps measurements of this process apart from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(device_cache))
        yield


@pytest.fixture
def tplaunch(device_cache: Path, request: pytest.FixtureRequest) -> Iterator[CommandLine]:
    """Runs the command line; see CommandLine. Lavapipe is its only driver unless `env` names another.

    Afterwards the test fails if a run left a process, a file or shared memory behind.
    """
    lavapipe = find_lavapipe().manifest
    variables = driver_variables(lavapipe) if lavapipe else {}
    command_line = CommandLine({**os.environ, **variables}, device_cache)
    command_line.validate = request.config.getoption("--validate")
    yield command_line
    command_line.close()
