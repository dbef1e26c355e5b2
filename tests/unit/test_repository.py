"""Tests the repository's promises about itself."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tplaunch

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("launcher", "worker", "coordinator", "collectives", "shaders")
ROOT_FILES = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"}
ROOT_SETTINGS = {".ci", ".editorconfig", ".gitattributes", ".github", ".gitignore", ".pre-commit-config.yaml"}
MAX_LINES = 300
NO_SENTENCE = ("Of", "Those", "What", "Whether")  # a docstring that begins so has no subject or no verb
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()
SOURCES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
) + sorted(f"tplaunch/{path.name}" for path in (REPOSITORY / "tplaunch").glob("*.py"))


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_names_the_commands(command: str) -> None:
    assert command in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "examples"])
def test_top_level_folders_are_those_of_the_design(folder: str) -> None:
    assert (REPOSITORY / folder).is_dir()


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="this is no checkout")
def test_the_root_has_nothing_by_accident() -> None:
    """Files that somebody made by hand there came along with a commit once."""
    command = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60)
    tracked = {Path(name).parts[0] for name in listed.stdout.split("\0") if name}
    folders = {*PACKAGES, "docs", "examples", "tests", "tplaunch"}
    assert tracked == ROOT_FILES | ROOT_SETTINGS | folders


def test_an_installation_has_every_package() -> None:
    """Only tplaunch is installed; its links lead to the five folders, each of whose folders is a package."""
    match = re.search(r"^include = \[([^]]*)\]", PYPROJECT, re.MULTILINE)
    assert match and match[1] == '"tplaunch*"'
    links = {path.name: path for path in (REPOSITORY / "tplaunch").iterdir() if path.is_symlink()}
    assert {str(link.readlink()) for link in links.values() if link.is_dir()} == {
        f"../{package}" for package in PACKAGES
    }
    assert all(link.exists() for link in links.values())
    folders = {(REPOSITORY / source).parent for source in SOURCES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("source", SOURCES)
def test_files_are_short(source: str) -> None:
    num_lines = len((REPOSITORY / source).read_text().splitlines())
    assert num_lines <= MAX_LINES, f"{num_lines} lines: does it hold two ideas?"


def test_no_merge_was_left_half_done() -> None:
    texts = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *(REPOSITORY / one for one in SOURCES)]
    marks = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    assert [str(path) for path in texts if marks.search(path.read_text())] == []


def fragments(file: str) -> list[str]:
    """The docstrings of a file that begin without a subject or a verb, a line each."""
    found = []
    for node in ast.walk(ast.parse((REPOSITORY / file).read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].rstrip(",.:;") in NO_SENTENCE:
                found.append(f"{file}:{node.body[0].lineno} {' '.join(words[:8])}")
    return found


def test_docstrings_are_sentences() -> None:
    folders = (*PACKAGES, "tests", "examples")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    files = {path.relative_to(REPOSITORY).as_posix() for path in paths} | set(SOURCES)
    assert [line for file in sorted(files) for line in fragments(file)] == []


def test_changelog_has_a_place_for_the_next_change() -> None:
    assert "## [Unreleased]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_version_is_the_latest_of_the_changelog() -> None:
    """Until the first release the changelog has nothing but its Unreleased section."""
    released = re.findall(r"^## \[(\d[^]]*)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[:1] in ([], [tplaunch.__version__])


@pytest.mark.parametrize(("manifest", "found"), [("card.json", True), ("missing.json", False)])
def test_the_driver_of_a_card_may_be_named_for_tests(tmp_path: Path, manifest: str, found: bool) -> None:
    """A name of nothing is said, so that nobody believes that the tests ran on the card."""
    (tmp_path / "card.json").write_text("{}")
    program = (
        "from tests.drivers import FINDERS; card = FINDERS['card'](); print(card.required, card.manifest)"
    )
    env = {**os.environ, "TPLAUNCH_TEST_ICD": str(tmp_path / manifest)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=env, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", str(tmp_path / manifest) if found else "None"]
