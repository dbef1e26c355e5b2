"""Where the Vulkan loader is not installed everything imports, and the unit tests can be collected."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# What the package vulkan does then, whether or not this machine has a loader.
NO_LOADER = 'raise OSError("Cannot find Vulkan SDK version.")\n'
IMPORT_ALL = """
import importlib, pathlib
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan import api

assert api.lib is None
names = [path.with_suffix("") for path in pathlib.Path("worker").rglob("*.py") if "__" not in path.name]
names = ["tplaunch." + ".".join(path.parts) for path in names]
names += [f"tests.unit.{path.stem}" for path in pathlib.Path("tests/unit").glob("*.py")]
assert len(names) > 100
for name in names:
    importlib.import_module(name)
try:
    importlib.import_module("tplaunch.worker.vulkan.listing").list_devices()
except DeviceError as error:
    print(error)
"""


def test_all_modules_import_without_a_loader(tmp_path: Path) -> None:
    (tmp_path / "vulkan").mkdir()
    (tmp_path / "vulkan/__init__.py").write_text(NO_LOADER)
    path = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "libvulkan1" in result.stdout
