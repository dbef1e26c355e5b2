"""Imports run one way: the packages of tplaunch import each other only along the arrows of the design.

launcher -> coordinator, worker
worker   -> coordinator.messages, encoding, next_step, curve, direct_line, framing, wire, options, kv_types,
            garbage and likeliest,
            coordinator.model, coordinator.split, coordinator.gguf.origin and weight_types,
            collectives, shaders
coordinator, collectives, shaders -> none of the other four

All may use tplaunch.running_clock, which imports nothing of tplaunch, and tplaunch.__version__. The other
modules of tplaunch itself are the Python API, which imports launcher and coordinator, and which none of the
five packages imports.

Inside worker and coordinator the folders and modules stand on floors: imports go down, never up, and
never to a neighbour on the same floor.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Which modules of other packages a package may import, all of them below tplaunch.
ARROWS: dict[str, tuple[str, ...]] = {
    "launcher": ("coordinator", "worker"),
    "worker": (
        *(
            "coordinator.candidates",
            "coordinator.curve",
            "coordinator.direct_line",
            "coordinator.framing",
            "coordinator.wire",
            "coordinator.messages",
            "coordinator.encoding",
            "coordinator.next_step",
            "coordinator.options",
            "coordinator.kv_types",
            "coordinator.garbage",
            "coordinator.likeliest",
        ),
        *(
            "coordinator.model",
            "coordinator.split",
            "coordinator.gguf.origin",
            "coordinator.gguf.weight_types",
        ),
        *("collectives", "shaders"),
    ),
    "coordinator": (),
    "collectives": (),
    "shaders": (),
}
# From the ground up; a folder or a module of its own belongs to exactly one floor.
FLOORS: dict[str, tuple[str, ...]] = {
    "coordinator": (
        "child_process curve garbage ids kv_types likeliest model options wire",
        "direct_line framing gguf",
        "split text",
        "architectures messages",
        "candidates encoding measuring next_step",
        "serving",
        "batches",
        "server",
        "evaluation",
    ),
    "worker": (
        "beating candidates dma_buf faults folders formats own_python process",
        "core_choice head_watch place",
        "control ops",
        "buffers",
        "programs",
        "device",
        "weights",
        "step",
        "measuring numpy",
        "checking",
        "cpu",
        "vulkan.api vulkan.budget vulkan.variants",
        "vulkan.compute_units vulkan.execution_modes vulkan.push_constants vulkan.queues vulkan.subgroups",
        "vulkan.barriers vulkan.external_memory vulkan.heaps vulkan.instance vulkan.memory_types",
        "vulkan.faults vulkan.matrices",
        "vulkan.listing",
        "vulkan.context",
        "vulkan.activations vulkan.pipeline_cache",
        "vulkan.host_writes vulkan.pipelines vulkan.staging vulkan.timestamps",
        "vulkan.waiting",
        "vulkan.timeline",
        "vulkan.memory",
        "vulkan.dispatch vulkan.foreign vulkan.imports",
        "vulkan.exports vulkan.in_flight vulkan.partials",
        "vulkan.compiling vulkan.exchange vulkan.recorder",
        "vulkan.prepared vulkan.sums",
        "vulkan.copying",
        "vulkan.checking vulkan.measuring",
        "vulkan.device",
        "open_device run_programs",
        "kernels",
        "rank",
        "loop",
        "jobs",
        "__main__",
    ),
}
# Pickle never crosses a socket, and what could carry it is not imported at all. multiprocessing pickles
# too, and its shared memory raises BufferError at exit when a pointer to it was handed to a driver.
FORBIDDEN = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing")
FORBIDDEN_CALLS = ("send_pyobj", "recv_pyobj")  # pyzmq's pickling methods
# Beside the packages in tplaunch/: what all may import of it; the other names there are the Python API's.
COMMON = ("running_clock", "__version__", "__file__", *ARROWS)
API_ARROWS = ("launcher", "coordinator")
VULKAN_FILE = "worker/vulkan/api.py"

API = sorted(
    f"tplaunch/{path.name}" for path in (REPOSITORY / "tplaunch").glob("*.py") if path.stem != "running_clock"
)
SOURCES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for package in ARROWS
    for path in (REPOSITORY / package).rglob("*.py")
)


def imported_names(node: ast.AST, file: str) -> list[str]:
    """The dotted names an import statement may load; `from a import b` gives `a.b`, a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            folder = ("tplaunch", *Path(file).parts)[: -node.level]
            base = ".".join((*folder, base)) if base else ".".join(folder)
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def is_within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def floor(name: str, package: str) -> tuple[int, str] | None:
    """The floor, counted from the ground, and the part of the package in which a module stands."""
    inside = name.removeprefix(f"tplaunch.{package}.")
    for number, parts in enumerate(FLOORS[package]):
        for part in parts.split():
            if is_within(inside, (part,)):
                return number, part
    return None


def climbs(source: str, file: str) -> Iterator[str]:
    """Yields a sentence for each import of this file's source that does not stand below the file."""
    package = Path(file).parts[0]
    here = floor(".".join(("tplaunch", *Path(file).with_suffix("").parts)), package)
    if here is None:
        yield f"{file} stands on no floor"
        return
    for node in ast.walk(ast.parse(source)):
        for name in imported_names(node, file):
            if not is_within(name, (f"tplaunch.{package}",)):
                continue
            there = floor(name, package)
            if there is not None and there[1] != here[1] and there[0] >= here[0]:
                yield f"{file} of {here[1]} imports {name}, which does not stand below it"


def violations(source: str, file: str) -> Iterator[str]:
    """Yields a sentence for each import of this file's source that is against the rules."""
    package = Path(file).parts[0]
    others = tuple(f"tplaunch.{other}" for other in ARROWS if other != package)
    allowed = tuple(f"tplaunch.{module}" for module in ARROWS[package])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_CALLS:
            yield f"{file}:{node.lineno} calls {node.attr}, which pickles"
        for name in imported_names(node, file):
            where = f"{file}:{node.lineno}" if isinstance(node, ast.stmt) else file
            if is_within(name, others) and not is_within(name, allowed):
                yield f"{where} imports {name}, but {package} may import only {allowed or 'itself'}"
            if is_within(name, ("tplaunch",)) and name.split(".")[1:2] and name.split(".")[1] not in COMMON:
                yield f"{where} imports {name}, which is the Python API, and stands above {package}"
            if is_within(name, tuple(ARROWS)):
                yield f"{where} imports {name} by a name that is not installed: it is tplaunch.{name}"
            if is_within(name, FORBIDDEN):
                yield f"{where} imports {name}"
            if is_within(name, ("vulkan",)) and file != VULKAN_FILE:
                yield f"{where} imports {name}; only {VULKAN_FILE} may"


def test_the_clock_of_all_imports_nothing_of_them() -> None:
    tree = ast.parse((REPOSITORY / "tplaunch/running_clock.py").read_text())
    names = [name for node in ast.walk(tree) for name in imported_names(node, "")]
    assert names and not [name for name in names if is_within(name, ("tplaunch", *ARROWS))]


@pytest.mark.parametrize("file", API)
def test_the_api_stands_on_launcher_and_coordinator(file: str) -> None:
    tree = ast.parse((REPOSITORY / file).read_text())
    names = [name for node in ast.walk(tree) for name in imported_names(node, file)]
    below = tuple(f"tplaunch.{package}" for package in ARROWS if package not in API_ARROWS)
    assert [name for name in names if is_within(name, (*below, *FORBIDDEN, "vulkan"))] == []


@pytest.mark.parametrize("file", SOURCES)
def test_imports_follow_the_arrows(file: str) -> None:
    assert list(violations((REPOSITORY / file).read_text(), file)) == []


@pytest.mark.parametrize(
    "file",
    [file for file in SOURCES if file.partition("/")[0] in FLOORS and not file.endswith("__init__.py")],
)
def test_imports_go_down(file: str) -> None:
    assert list(climbs((REPOSITORY / file).read_text(), file)) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("coordinator/messages.py", "from tplaunch.coordinator.serving.engine import Engine"),
        ("coordinator/split/plan.py", "from tplaunch.coordinator.text import tokenizer"),
        ("worker/ops/common.py", "from tplaunch.worker.numpy.rows import matmul"),
        ("worker/buffers/table.py", "from ..programs.program import Program"),
        ("worker/vulkan/memory.py", "from tplaunch.worker.vulkan.device import VulkanDevice"),
        ("worker/vulkan/dispatch/rows.py", "from tplaunch.worker.vulkan import recorder"),
        ("worker/attic/junk.py", "import os"),
    ],
)
def test_a_climb_is_caught(file: str, source: str) -> None:
    assert list(climbs(source, file))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("worker/loop.py", "import tplaunch.coordinator"),
        ("worker/loop.py", "from tplaunch.coordinator.serving import engine"),
        ("worker/loop.py", "from ..coordinator.serving.engine import Engine"),
        ("worker/loop.py", "def late():\n    from tplaunch.launcher.cli import main"),
        ("coordinator/serving/engine.py", "import os, tplaunch.collectives.base"),
        ("collectives/base.py", "from tplaunch.worker import loop"),
        ("shaders/load.py", "from tplaunch.coordinator.split.plan import Plan"),
        ("launcher/cli.py", "from tplaunch.collectives import loopback"),
        ("launcher/devices.py", "import vulkan"),
        ("launcher/devices.py", "from tplaunch import LLM"),
        ("launcher/cli.py", "from tplaunch.llm import LLM"),
        ("coordinator/serving/engine.py", "import tplaunch.outputs"),
        ("launcher/devices.py", "from worker.device import Device"),
        ("worker/loop.py", "import worker.device"),
        ("worker/device.py", "from vulkan._vulkan import ffi"),
        ("coordinator/serving/engine.py", "import pickle"),
        ("collectives/shared_memory.py", "from multiprocessing import shared_memory"),
        ("coordinator/serving/engine.py", "socket.send_pyobj(1)"),
    ],
)
def test_a_violation_is_caught(file: str, source: str) -> None:
    assert list(violations(source, file))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("worker/loop.py", "from tplaunch.coordinator import messages, split"),
        (
            "worker/loop.py",
            "from tplaunch.coordinator.split.plan import Plan\n"
            "from . import program\nimport tplaunch.collectives.base",
        ),
        ("worker/vulkan/api.py", "from vulkan._vulkan import ffi, lib"),
        ("launcher/options.py", "import tplaunch\nfrom tplaunch import __version__, running_clock"),
        ("launcher/cli.py", "import tplaunch.worker.device\nfrom tplaunch.coordinator.serving import engine"),
        (
            "coordinator/serving/engine.py",
            "from .scheduler import Scheduler\nfrom tplaunch.coordinator.split import plan",
        ),
    ],
)
def test_the_arrows_may_be_followed(file: str, source: str) -> None:
    assert list(violations(source, file)) == []
