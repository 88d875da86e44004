"""Compiles kernels for the emulator: the one place that knows compiler flags. Tests and CMake both come here.

    python tests/cuda_emulation/build.py --variant plain --variant asan [--output FOLDER] [NAME...]

builds the modules of bindings/NAME.cpp (all of them without a name). A binding names the kernels' files in a comment:
`// Kernels: csrc/cuda/a.cu csrc/cuda/b.cu`, relative to the root of the repository or to the binding.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILERS_AT_ONCE = 2

# -g1: line numbers only. Paths in messages are relative to the repository.
COMMON = [
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-g1", "-pthread", f"-ffile-prefix-map={ROOT}/="),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-parameter"),
]
INCLUDE = [f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}"]


@dataclass(frozen=True)
class Variant:
    """One way to compile kernels; the emulator itself is never instrumented, it reports what it does."""

    kernel: tuple[str, ...]
    emulator: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()  # runtimes that must come before all others into a process


# The compiler's checks call the emulator's own functions here (emulator/checks.cpp).
_CHECKS = ("-fsanitize=alignment,bounds",)

VARIANTS = {
    "plain": Variant(("-O2", *_CHECKS)),
    "asan": Variant(
        ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
        ("-DKSHOT_EMULATION_ASAN",),
        ("-fsanitize=address,undefined",),
        ("libasan.so",),
    ),
    "tsan": Variant(
        ("-O1", "-fsanitize=thread", "-fno-omit-frame-pointer"),
        ("-DKSHOT_EMULATION_TSAN",),
        ("-fsanitize=thread",),
        ("libtsan.so",),
    ),
    # The thread sanitizer's instrumentation with hooks of the emulator's own (emulator/traffic.cpp). A structure is
    # copied in one access, as the device does it, only if it is not taken to pieces first.
    "traffic": Variant(
        (
            *("-O2", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", *_CHECKS),
            *("-fno-tree-sra", "-fno-ipa-sra", "-fno-tree-vectorize"),
        ),
        ("-DKSHOT_EMULATION_TRAFFIC",),
    ),
}


class BuildError(RuntimeError):
    """The compiler's message."""


def cache_folder() -> Path:
    """Where objects and modules are kept, under names that tell their contents."""
    default = Path(tempfile.gettempdir()) / f"kshot-emulation-{os.getuid()}"
    folder = Path(os.environ.get("KSHOT_EMULATION_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def compiler() -> str:
    """The C++ compiler; the emulator needs GCC's instrumentation."""
    return os.environ.get("KSHOT_EMULATION_CXX", "g++")


@cache
def available() -> bool:
    """Whether this machine has what the emulator needs: Linux and GCC."""
    if sys.platform != "linux" or shutil.which(compiler()) is None:
        return False
    macros = subprocess.run([compiler(), "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


@cache
def _compiler_version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def runtime_library(name: str) -> str:
    """A sanitizer's runtime, to be preloaded."""
    return subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:24]


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{result.stderr}")
    if result.stderr:
        sys.stderr.write(result.stderr)


def _dependencies(rule_file: Path) -> list[Path]:
    rule = rule_file.read_text().replace("\\\n", " ").split(":", 1)[1]
    return [Path(name.replace("\\ ", " ")) for name in re.findall(r"(?:\\ |\S)+", rule)]


def _contents(files: Sequence[Path]) -> str | None:
    if not all(file.is_file() for file in files):
        return None
    return _digest(*(file.read_bytes() for file in files))


def _compile(source: Path, flags: Sequence[str]) -> Path:
    """The object of a source; compiled unless one of the same command and the same files is there."""
    command = [compiler(), "-x", "c++", *COMMON, *flags, *INCLUDE, "-MMD", "-c", str(source)]
    name = f"{source.stem}-{_digest(_compiler_version(), *command)}"
    folder = cache_folder()
    rule = folder / f"{name}.d"
    if rule.is_file():
        found = folder / f"{name}-{_contents(_dependencies(rule))}.o"
        if found.is_file():
            return found
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / "built.o"
        _run([*command, "-o", str(built)])
        made_rule = built.with_suffix(".d")
        target = folder / f"{name}-{_contents(_dependencies(made_rule))}.o"
        # The object first: a rule without its object only means to compile again.
        built.replace(target)
        made_rule.replace(rule)
    return target


def kernel_files(binding: Path) -> list[Path]:
    """The files that the binding's comment names."""
    lines = re.findall(r"^// Kernels: (.+)$", binding.read_text(), re.MULTILINE)
    if not lines:
        raise BuildError(f"{binding} has no line `// Kernels: FILE...`")
    names = [name for line in lines for name in line.split()]
    return [ROOT / name if (ROOT / name).is_file() else binding.parent / name for name in names]


def module_jobs(binding: Path, variant: str, defines: Sequence[str] = ()) -> list[tuple[Path, tuple[str, ...]]]:
    """The compilations that a module needs, in the order of linking: file and flags."""
    import pybind11

    chosen = VARIANTS[variant]
    python = [f"-isystem{sysconfig.get_paths()['include']}", f"-isystem{pybind11.get_include()}"]
    emulator = {file.name: (file, ("-O3", *chosen.emulator)) for file in sorted((HERE / "emulator").glob("*.cpp"))}
    return [
        (binding, ("-O0", f"-DKSHOT_EMULATION_NAME={binding.stem}", *python)),
        emulator.pop("shared_begin.cpp"),
        *((file, (*chosen.kernel, *defines)) for file in kernel_files(binding)),
        emulator.pop("shared_end.cpp"),
        *emulator.values(),
    ]


def build_module(binding: Path, variant: str, defines: Sequence[str] = ()) -> Path:
    """The module of a binding in a variant, built if it is not there yet. `defines`: -D flags for the kernels."""
    return _link(binding.stem, module_jobs(binding, variant, defines), VARIANTS[variant])


def _link(
    name: str, jobs: Sequence[tuple[Path, tuple[str, ...]]], variant: Variant, libraries: Sequence[str] = ()
) -> Path:
    """Compiles what is not compiled yet and links it."""
    with ThreadPoolExecutor(COMPILERS_AT_ONCE) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    link = [compiler(), "-shared", *COMMON, *variant.link, "-Wl,--no-undefined-version"]
    names = [str(file) for file in objects]
    folder = cache_folder() / f"{name}-{_digest(*link, *names, *libraries)}"
    target = folder / f"{name}.so"
    if not target.is_file():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / target.name
            _run([*link, *names, *libraries, "-o", str(built)])
            built.replace(target)
    return target


def build_operators() -> Path:
    """The library of the CUDA operators, its kernels on the emulator, registered for tensors on the CPU."""
    import torch

    from kshot_ext._native import flags as library_flags

    headers = [f"-isystem{Path(torch.__file__).parent / 'include'}", "-Wno-unused-variable"]
    flags = (*library_flags.OPS, "-O1", "-DKSHOT_DISPATCH_KEY=CPU", *headers)
    glue = [path for path in sorted((ROOT / "csrc" / "ops_cuda").glob("*.cpp")) if path.name != "launch.cpp"]
    kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    emulator = {file.name: (file, ("-O3",)) for file in sorted((HERE / "emulator").glob("*.cpp"))}
    jobs = [
        *((file, flags) for file in [*glue, HERE / "operators" / "launch.cpp"]),
        emulator.pop("shared_begin.cpp"),
        *((file, VARIANTS["plain"].kernel) for file in kernels),
        emulator.pop("shared_end.cpp"),
        *emulator.values(),
    ]
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
    return _link("operators", jobs, VARIANTS["plain"], libraries)


def main() -> None:
    """Builds modules ahead of time, for CMake and for developers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="bindings; all of them by default")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be given more than once")
    parser.add_argument("--output", type=Path, help="folder to copy the modules to, each in one of its variant")
    options = parser.parse_args()
    bindings = [HERE / "bindings" / f"{name}.cpp" for name in options.names]
    for variant in options.variant or VARIANTS:
        for binding in bindings or sorted((HERE / "bindings").glob("*.cpp")):
            module = build_module(binding, variant)
            if options.output:
                (options.output / variant).mkdir(parents=True, exist_ok=True)
                module = Path(shutil.copy(module, options.output / variant))
            print(module)


if __name__ == "__main__":
    main()
