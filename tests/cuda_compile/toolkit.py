"""Compiles the CUDA sources and reads what the compiler made of them. No GPU is needed.

nvcc is looked for on PATH, in $CUDA_HOME and in /usr/local/cuda; cuobjdump and nvdisasm there and in the PyPI packages
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
COMPILERS_AT_ONCE = 2
VIRTUAL = "-arch=compute_80"  # as kshot_ext/_native/flags.py has it
FLAGS = ("-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v")


class CompileError(RuntimeError):
    """What nvcc said."""


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel for one architecture, as compiled."""

    file: str
    arch: str
    name: str  # demangled, without the namespaces
    threads: int  # most per block
    registers: int
    stack: int
    spilled: int  # bytes of stores and loads
    shared: int  # static
    instructions: int
    local_accesses: int
    vector_loads: int  # 16 bytes, from global memory
    vector_stores: int
    tensor_core: int


def _folders() -> Iterator[Path]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder or ".")
    if "CUDA_HOME" in os.environ:
        yield Path(os.environ["CUDA_HOME"]) / "bin"
    yield Path("/usr/local/cuda/bin")
    for folder in sys.path:
        yield from sorted((Path(folder) / "nvidia").glob("cu*/bin"))


@cache
def find(tool: str) -> str | None:
    """The path of a tool, or None."""
    return next((str(found) for folder in _folders() if (found := shutil.which(tool, path=folder))), None)


def missing() -> str | None:
    """Why nothing can be checked here, or None."""
    absent = [tool for tool in ("nvcc", "cuobjdump", "nvdisasm", "c++filt") if find(tool) is None]
    return f"{', '.join(absent)} not found" if absent else None


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if result.returncode != 0:
        raise CompileError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def _environment() -> dict[str, str]:
    """cuobjdump finds nvdisasm on PATH only."""
    nvdisasm = find("nvdisasm")
    extra = [str(Path(nvdisasm).parent)] if nvdisasm else []
    return {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), *extra])}


@cache
def _versions() -> str:
    return "".join(_run([str(find(tool)), "--version"]) for tool in ("nvcc", "cuobjdump"))


def _with_includes(source: Path) -> list[Path]:
    """A source and the project's headers that it includes."""
    found, waiting = [], [source]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        waiting += [CSRC / name for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE)]
    return sorted(found)


def _cache_folder() -> Path:
    default = Path(tempfile.gettempdir()) / f"kshot-cuda-compile-{os.getuid()}"
    folder = Path(os.environ.get("KSHOT_CUDA_COMPILE_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(source: Path, *settings: str) -> str:
    digest = hashlib.sha256(repr((_versions(), FLAGS, source.name, settings)).encode())
    for file in (Path(__file__), *_with_includes(source)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


_locks: defaultdict[Path, Lock] = defaultdict(Lock)


def _ptx(source: Path) -> Path:
    """The source's code for the virtual architecture, of which that for each real one is made, as in a build."""
    kept = _cache_folder() / f"{source.stem}-{_digest(source)}.ptx"
    with _locks[source]:
        if not kept.is_file():
            with tempfile.TemporaryDirectory(dir=_cache_folder()) as scratch:
                written = Path(scratch) / "kernels.ptx"
                _run([str(find("nvcc")), VIRTUAL, *FLAGS, f"-I{CSRC}", "-ptx", str(source), "-o", str(written)])
                written.replace(kept)
    return kept


def compile_kernels(source: Path, arch: str) -> list[Kernel]:
    """The kernels of a source, compiled unless the same contents were before."""
    kept = _cache_folder() / f"{source.stem}-{arch}-{_digest(source, arch)}.json"
    if not kept.is_file():
        ptx = _ptx(source)
        with tempfile.TemporaryDirectory(dir=_cache_folder()) as scratch:
            cubin = Path(scratch) / "kernels.cubin"
            log = _run([str(find("nvcc")), f"-arch={arch}", *FLAGS, "-cubin", str(ptx), "-o", str(cubin)])
            kernels = _read(cubin, log, source.name, arch)
            written = Path(scratch) / "kernels.json"
            written.write_text(json.dumps([asdict(kernel) for kernel in kernels]))
            written.replace(kept)
    return [Kernel(**fields) for fields in json.loads(kept.read_text())]


def compile_all(sources: Sequence[Path], archs: Sequence[str]) -> list[Kernel]:
    """The kernels of all sources for all architectures."""
    jobs = [(source, arch) for source in sources for arch in archs]
    with ThreadPoolExecutor(COMPILERS_AT_ONCE) as pool:
        return [kernel for kernels in pool.map(lambda job: compile_kernels(*job), jobs) for kernel in kernels]


def _read(cubin: Path, log: str, file: str, arch: str) -> list[Kernel]:
    """What the tools tell of every kernel in a cubin."""
    cuobjdump = str(find("cuobjdump"))
    usage = dict(re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", _run([cuobjdump, "-res-usage", str(cubin)])))
    spilled = {
        name: int(stores) + int(loads)
        for name, stores, loads in re.findall(
            r"Function properties for (\S+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads", log
        )
    }
    threads = {
        name: int(x, 16) * int(y, 16) * int(z, 16)
        for name, x, y, z in re.findall(
            r"^\.nv\.info\.(\S+)\n(?:(?!^\.).*\n)*?.*EIATTR_MAX_THREADS\n.*\n\s*Value:\s*(\S+) (\S+) (\S+)",
            _run([cuobjdump, "-elf", str(cubin)]),
            re.MULTILINE,
        )
    }
    code = dict(
        part.split("\n", 1)
        for part in re.split(r"^\s*Function : ", _run([cuobjdump, "-sass", str(cubin)]), flags=re.M)[1:]
    )
    names = [name for name in usage if name in code]
    plain = _run([str(find("c++filt")), *names]).splitlines() if names else []
    kernels = []
    for mangled, demangled in zip(names, plain):
        fields = dict(field.split(":", 1) for field in usage[mangled].split() if ":" in field)
        operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code[mangled])

        def count(pattern: str, among: list[str] = operations) -> int:
            return sum(bool(re.fullmatch(pattern, operation)) for operation in among)

        kernels.append(
            Kernel(
                file=file,
                arch=arch,
                name=_short(demangled),
                threads=threads.get(mangled, 1024),
                registers=int(fields["REG"]),
                stack=int(fields["STACK"]),
                spilled=spilled.get(mangled, 0),
                shared=int(fields["SHARED"]),
                instructions=len(operations),
                local_accesses=count(r"(STL|LDL)(\..*)?"),
                vector_loads=count(r"(LDG|LDGSTS)\..*\b128\b.*"),
                vector_stores=count(r"STG\..*\b128\b.*"),
                tensor_core=count(r"HMMA\..*"),
            )
        )
    return kernels


def _short(demangled: str) -> str:
    """`kernel<template arguments>` of a signature."""
    signature = re.sub(r"\(anonymous namespace\)::|kshot::cuda::|kshot::|^void ", "", demangled)
    return signature.split("(")[0]
