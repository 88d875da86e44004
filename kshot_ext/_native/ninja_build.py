"""Compile and link one recipe with ninja."""

import errno
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from kshot_ext._native import flags
from kshot_ext._native.cache import ELSEWHERE
from kshot_ext._native.errors import BackendError
from kshot_ext._native.library import LIBRARY
from kshot_ext._native.process import run
from kshot_ext._native.recipe import CompileStep, CudaRecipe, Recipe

# Twice what the largest file takes.
_BYTES_PER_JOB = 1 << 29
_LINES_SHOWN = 25
_RULES = """\
rule compile
  command = $compiler $compile_flags $flags -c $in -o $out
  description = compile $out
rule link
  command = $compiler $link_flags $in $libraries -o $out
  description = link $out
"""


def build_library(
    recipe: Recipe | CudaRecipe, folder: Path, seconds: float, on_compiled: Callable[[int], None] = lambda done: None
) -> None:
    """Build `recipe` into the empty folder `folder`, which then holds one file: `LIBRARY`.

    Args:
        recipe: what to build.
        folder: where.
        seconds: how long it may take.
        on_compiled: called now and then with the number of steps that have ended.

    Raises:
        BackendError: ninja is missing, or a step fails, or it takes longer than `seconds`; where a step fails, the
            message ends with the last lines printed.
    """
    objects = folder / "objects"
    objects.mkdir()
    for step in recipe.steps():
        unit = objects / step.unit
        unit.parent.mkdir(exist_ok=True)
        unit.write_text("".join(f'#include "{source}"\n' for source in step.sources), encoding="utf-8")
    # Names on disk are bytes; surrogates stand for those that are no UTF-8.
    (objects / "build.ninja").write_text(_ninja_file(recipe), encoding="utf-8", errors="surrogateescape")
    # Compilers keep scratch files in TMPDIR, and /tmp may be full or closed to them.
    environment = {**os.environ, "TMPDIR": str(objects), "NINJA_STATUS": "[%f] "}
    command = [_ninja(), "-C", str(objects), "-j", str(jobs())]

    def count(output: str) -> None:
        if ended := re.findall(r"^\[(\d+)\] ", output, re.MULTILINE):
            on_compiled(int(ended[-1]))

    result = run(command, seconds, environment=environment, on_output=count)
    if result.returncode != 0:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-_LINES_SHOWN:])
        cure = "name another compiler in the environment variable CXX"
        if os.strerror(errno.ENOSPC) in tail:
            cure = f"free space on the disk of {folder.parent}, or {ELSEWHERE}"
        raise BackendError(
            f"the native kernels do not compile with {_told(recipe)}; to cure it, {cure}. "
            f"ninja ended with code {result.returncode} and these lines:\n{tail}"
        )
    if not (folder / LIBRARY).is_file():
        raise BackendError(
            f"{_told(recipe)} ended as if it had compiled the native kernels, but made no library; "
            "to cure it, name another compiler in the environment variable CXX"
        )
    shutil.rmtree(objects)


def _told(recipe: Recipe | CudaRecipe) -> str:
    return f"{shlex.join(recipe.compiler.command)} ({recipe.compiler.identity})"


def jobs() -> int:
    """Compilers to run at once: one per CPU, but no more than free memory holds; `MAX_JOBS` lowers it."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [cpus, _free_memory() // _BYTES_PER_JOB]
    if os.environ.get("MAX_JOBS", "").isdecimal():
        limits.append(int(os.environ["MAX_JOBS"]))
    return max(1, min(limits))


def _free_memory() -> int:
    """Bytes that new processes can take without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts = dict(line.split(":", 1) for line in lines)
        return int(amounts["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):  # no Linux, or a sandbox that shows half of it
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _ninja() -> str:
    program = shutil.which("ninja", path=_packaged_ninja()) or shutil.which("ninja")
    if program is None:
        raise BackendError("no ninja, which runs the compiler; to cure it, run pip install ninja")
    return program


def _packaged_ninja() -> str:
    """The folder of the program that the package ninja brings; empty without it."""
    try:
        import ninja
    except ImportError:
        return ""
    return getattr(ninja, "BIN_DIR", "")


def _ninja_file(recipe: Recipe | CudaRecipe) -> str:
    edges = [_edge(step) for step in recipe.steps()]
    objects = " ".join(f"{step.unit}.o" for step in recipe.steps())
    variables = {
        "compiler": recipe.compiler.command,
        "compile_flags": recipe.compile_flags(),
        "link_flags": flags.LINK,
        "libraries": recipe.link_flags(),
    }
    assignments = [f"{name} = {_words(words)}" for name, words in variables.items()]
    return "\n".join([*assignments, _RULES, *edges, f"build ../{LIBRARY}: link {objects}", ""])


def _edge(step: CompileStep) -> str:
    lines = [f"build {step.unit}.o: compile {step.unit}", f"  flags = {_words(step.flags)}"]
    if step.command:
        lines += [f"  compiler = {_words(step.command)}", "  compile_flags ="]
    return "\n".join(lines)


def _words(words: tuple[str, ...]) -> str:
    """Words of a shell command, as the right-hand side of a ninja assignment.

    Raises:
        BackendError: one holds a line break, which ninja cannot express.
    """
    for word in words:
        if "\n" in word:
            raise BackendError(f"ninja takes no line break in a name, got {word!r}; {ELSEWHERE}")
    return shlex.join(words).replace("$", "$$")
