"""An installation has one name, comes from a wheel or an sdist, and has all that a run needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tplaunch
from tests.drivers import REPOSITORY

FOLDERS = ("launcher", "worker", "coordinator", "collectives", "shaders", "tplaunch", "examples")
FILES = ("pyproject.toml", "README.md", "LICENSE")
PACKAGES = FOLDERS[:5]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the sources and the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    sources.mkdir()
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, sources / name, symlinks=True, ignore=ignored)
    for name in FILES:
        shutil.copy(REPOSITORY / name, sources)
    build("build_sdist", sources, folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as sdist:
        unpacked = folder / sdist.getnames()[0].partition("/")[0]
        sdist.extractall(folder, filter="data")
    build("build_wheel", unpacked, folder)
    return folder


def build(what: str, sources: Path, out: Path) -> None:
    """Calls setuptools as pip and build do."""
    program = f"from setuptools.build_meta import {what} as build; build({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=sources, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_installs_one_name(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {name.partition("/")[0] for name in names} == {
        "tplaunch",
        f"tplaunch-{tplaunch.__version__}.dist-info",
    }
    assert {
        "tplaunch/py.typed",
        "tplaunch/demo-stories.gguf",
        "tplaunch/__main__.py",
        "tplaunch/llm.py",
    } <= names
    sources = {
        f"tplaunch/{path.relative_to(REPOSITORY).as_posix()}"
        for package in PACKAGES
        for pattern in ("*.py", "*.spv", "*.slang", "page/static/*")
        for path in (REPOSITORY / package).rglob(pattern)
    }
    assert sources - names == set()


def test_an_installed_wheel_tells_the_story(built: Path, tmp_path: Path) -> None:
    """Away from the repository, with folders around that are called like the packages."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    for name in PACKAGES:
        (tmp_path / "project" / name).mkdir(parents=True)
        (tmp_path / "project" / name / "__init__.py").write_text("raise ImportError('another project')")
    # The editable installation's finder comes after sys.path, so this copy is the one that is imported.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{tmp_path / 'project'}"}
    model = tmp_path / "site/tplaunch/demo-stories.gguf"
    arguments = ["--devices", "numpy", str(model), "-p", "Once upon a time", "-n", "12", "--temperature", "0"]
    program = "import tplaunch; print(tplaunch.__file__)"
    for command in (["-c", program], ["-m", "tplaunch", *arguments]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path / "project",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        expected = str(tmp_path / "site") if command[0] == "-c" else "there lived a little girl"
        assert expected in done.stdout
