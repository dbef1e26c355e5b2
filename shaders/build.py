"""Compiles each entry point of shaders/*.slang to shaders/spv/NAME.spv: `python -m tplaunch.shaders.build`.

Only sources are compiled that differ from those of which shaders/spv/sources.txt has a hash, all of them with
--all. With --check nothing is written: everything is compiled, and the exit status says whether shaders/spv/
is what the sources give. Only developers need this, and with it the Slang compiler; the .spv files are
committed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tplaunch.shaders import alignment, matrix_sizes, spirv

FOLDER = Path(__file__).resolve().parent
SPV_FOLDER = FOLDER / "spv"
BEHIND = ("alignment", "matrix_sizes", "spirv")  # modules that work on what the compiler gives
SOURCES = "sources.txt"  # beside the kernels: a hash of each source that they were made of
# In preprocessed text, where the kernels of all formats stand that a macro makes.
ENTRY_POINT = re.compile(r'\[ shader \( "compute" \) \][^{]*? void (\w+) \(')
# Debian 12's validators refuse Slang's number in OpSource; the rest only makes files larger. Member names
# stay: a test compares those of the push constants with the host's.
DROPPED = (
    spirv.OP_SOURCE,
    spirv.OP_SOURCE_EXTENSION,
    spirv.OP_NAME,
    spirv.OP_STRING,
    spirv.OP_LINE,
    spirv.OP_NO_LINE,
    spirv.OP_MODULE_PROCESSED,
)


class BuildError(RuntimeError):
    """No compiler, or it refused a source; the message holds what it said."""


def find_compiler() -> Path | None:
    """slangc on the path, or the one in the slangtorch wheel."""
    on_path = shutil.which("slangc")
    if on_path:
        return Path(on_path)
    package = importlib.util.find_spec("slangtorch")
    if package is None or package.origin is None:
        return None
    compiler = Path(package.origin).parent / "bin" / "slangc"
    return compiler if compiler.exists() else None


@dataclass(frozen=True)
class Source:
    """A file of kernels, with all that it includes."""

    path: Path
    names: tuple[str, ...]  # of its kernels
    digest: str  # of its preprocessed text, and of what happens to a module behind the compiler


def read_sources(compiler: Path) -> list[Source]:
    """Reads every source, in the order of names."""
    paths = sorted(FOLDER.glob("*.slang"))
    behind = b"".join((FOLDER / f"{module}.py").read_bytes() for module in BEHIND)
    with ThreadPoolExecutor() as pool:
        texts = pool.map(lambda path: run(compiler, path, "-E"), paths)
        found = [
            Source(path, tuple(ENTRY_POINT.findall(text)), hashlib.sha256(text.encode() + behind).hexdigest())
            for path, text in zip(paths, texts, strict=True)
        ]
    names = [name for source in found for name in source.names]
    assert len(set(names)) == len(names), "two kernels have one name"
    return found


def hashes(sources: Collection[Source]) -> str:
    """Returns what SOURCES holds: a line for each source."""
    return "".join(f"{source.digest}  {source.path.name}\n" for source in sources)


def changed(sources: Collection[Source], folder: Path) -> list[Source]:
    """Returns the sources of which the folder's kernels were not made, by their hashes, or lack some."""
    file = folder / SOURCES
    kept = set(file.read_text().splitlines()) if file.exists() else set()
    return [
        source
        for source in sources
        if hashes([source]).rstrip() not in kept
        or not all((folder / f"{name}.spv").exists() for name in source.names)
    ]


def compile_entry_point(compiler: Path, source: Path, name: str) -> bytes:
    """One kernel as a SPIR-V module. -O0: the wheel has no spirv-opt, and drivers optimise anyway."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernel.spv"
        options = ("-O0", "-target", "spirv", "-stage", "compute", "-entry", name, "-o", str(output))
        run(compiler, source, *options)
        return finished(output.read_bytes())


def run(compiler: Path, source: Path, *options: str) -> str:
    """Runs the compiler and returns its output. Raises BuildError with its complaints."""
    command = [str(compiler), str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{source.name} does not compile ({' '.join(options)}):\n{done.stderr}")
    return done.stdout


def finished(module: bytes) -> bytes:
    """Returns the module without debug instructions, and with what Slang can't say."""
    kept = [item for item in spirv.instructions(module) if item.opcode not in DROPPED]
    return spirv.assembled(module, list(alignment.aligned(list(matrix_sizes.sized(kept)))))


def ready_compiler() -> Path:
    """The compiler, so that it can be run. Raises BuildError where there is none."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no slangc here; install it with: pip install --no-deps slangtorch")
    compiler.chmod(compiler.stat().st_mode | 0o111)  # pip drops the bit on some systems
    return compiler


def compiled(compiler: Path, sources: Collection[Source], names: Collection[str]) -> dict[str, bytes]:
    """These of the sources' kernels, compiled. Raises BuildError."""
    wanted = {name: source.path for source in sources for name in source.names if name in names}
    with ThreadPoolExecutor() as pool:
        modules = pool.map(lambda name: compile_entry_point(compiler, wanted[name], name), wanted)
        return dict(zip(wanted, modules, strict=True))


def differences(built: dict[str, bytes], folder: Path) -> list[str]:
    """Names of kernels whose committed file is missing, different or of no source."""
    committed = {path.stem: path.read_bytes() for path in folder.glob("*.spv")}
    names = sorted(built.keys() | committed.keys())
    return [name for name in names if built.get(name) != committed.get(name)]


def write(built: dict[str, bytes], folder: Path) -> None:
    """Makes the folder hold exactly these kernels, and no hashes of sources."""
    folder.mkdir(exist_ok=True)
    (folder / SOURCES).unlink(missing_ok=True)
    for path in folder.glob("*.spv"):
        if path.stem not in built:
            path.unlink()
    for name, module in built.items():
        (folder / f"{name}.spv").write_bytes(module)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tplaunch.shaders.build", description=__doc__)
    parser.add_argument("--all", action="store_true", help="compile also what is up to date by its hash")
    parser.add_argument("--check", action="store_true", help="compile all and compare instead of writing")
    arguments = parser.parse_args()
    try:
        compiler = ready_compiler()
        sources = read_sources(compiler)
        anew = sources if arguments.all or arguments.check else changed(sources, SPV_FOLDER)
        built = compiled(compiler, anew, [name for source in anew for name in source.names])
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.check:
        names = [name for source in sources for name in source.names if source not in anew]
        kept = {name: (SPV_FOLDER / f"{name}.spv").read_bytes() for name in names}
        write(kept | built, SPV_FOLDER)
        (SPV_FOLDER / SOURCES).write_text(hashes(sources))
        return 0
    stale = differences(built, SPV_FOLDER)
    if stale:
        print(f"shaders/spv/ is out of date: {', '.join(stale)}; run: make shaders", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
