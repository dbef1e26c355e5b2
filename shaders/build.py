"""Compiles each entry point of shaders/*.slang to shaders/spv/NAME.spv: `python -m tplaunch.shaders.build`.

With --check nothing is written; the exit status says whether shaders/spv/ is what the sources give. Only
developers need this, and with it the Slang compiler; the .spv files are committed.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tplaunch.shaders import alignment, matrix_sizes, spirv

FOLDER = Path(__file__).resolve().parent
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


def entry_points(compiler: Path) -> dict[str, Path]:
    """The source of every kernel, by name."""
    sources = sorted(FOLDER.glob("*.slang"))
    with ThreadPoolExecutor() as pool:
        texts = pool.map(lambda source: run(compiler, source, "-E"), sources)
        found: dict[str, Path] = {}
        for source, text in zip(sources, texts, strict=True):
            for name in ENTRY_POINT.findall(text):
                assert name not in found, f"two kernels are called {name}"
                found[name] = source
    return found


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


def build_all() -> dict[str, bytes]:
    """Every kernel, compiled. Raises BuildError."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no slangc here; install it with: pip install --no-deps slangtorch")
    compiler.chmod(compiler.stat().st_mode | 0o111)  # pip drops the bit on some systems
    sources = entry_points(compiler)
    with ThreadPoolExecutor() as pool:
        modules = pool.map(lambda name: compile_entry_point(compiler, sources[name], name), sources)
        return dict(zip(sources, modules, strict=True))


def differences(built: dict[str, bytes], folder: Path) -> list[str]:
    """Names of kernels whose committed file is missing, different or of no source."""
    committed = {path.stem: path.read_bytes() for path in folder.glob("*.spv")}
    names = sorted(built.keys() | committed.keys())
    return [name for name in names if built.get(name) != committed.get(name)]


def write(built: dict[str, bytes], folder: Path) -> None:
    """Makes the folder hold exactly these kernels."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.spv"):
        if path.stem not in built:
            path.unlink()
    for name, module in built.items():
        (folder / f"{name}.spv").write_bytes(module)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tplaunch.shaders.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    try:
        built = build_all()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    if not check:
        write(built, FOLDER / "spv")
        return 0
    stale = differences(built, FOLDER / "spv")
    if stale:
        print(f"shaders/spv/ is out of date: {', '.join(stale)}; run: make shaders", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
