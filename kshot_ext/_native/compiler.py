"""The C++ compiler: which one, which version, is it recent enough."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from kshot_ext._native.errors import BackendError

_DEFAULTS = ("g++", "clang++", "c++")
_OLDEST = {"g++": 9, "clang": 10}
_CURE = (
    "install g++ 9 or later (Debian, Ubuntu: apt install g++) or clang 10 or later, "
    "or name a compiler in the environment variable CXX"
)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that is present and recent enough."""

    command: tuple[str, ...]
    family: str
    version: str

    @property
    def identity(self) -> str:
        """Family and version: what the compiled result depends on."""
        return f"{self.family} {self.version}"


def find_compiler() -> Compiler:
    """The compiler that `CXX` names; without `CXX`, the first usable one of g++, clang++ and c++.

    Raises:
        BackendError: none is there, or none is recent enough.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    candidates = [tuple(chosen)] if chosen else [(name,) for name in _DEFAULTS]
    refusals = []
    for command in candidates:
        try:
            return _inspect(command)
        except BackendError as refusal:
            refusals.append(str(refusal))
    origin = "CXX names no usable C++ compiler" if chosen else "no usable C++ compiler"
    raise BackendError(f"{origin}: {'; '.join(refusals)}. To cure it, {_CURE}")


def _inspect(command: tuple[str, ...]) -> Compiler:
    name = shlex.join(command)
    if shutil.which(command[0]) is None:
        raise BackendError(f"{name} is not on PATH")
    family = "clang" if "clang" in _output(*command, "--version").lower() else "g++"
    # Since version 7, -dumpversion of g++ may print the major number only; clang knows no other option.
    version = _output(*command, "-dumpversion" if family == "clang" else "-dumpfullversion")
    major = re.match(r"\d+", version)
    if major is None:
        raise BackendError(f"{name} prints no version number but {version[:80]!r}")
    if int(major[0]) < _OLDEST[family]:
        raise BackendError(f"{name} is {family} {version}, expected {_OLDEST[family]} or later")
    return Compiler(command, family, version)


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{shlex.join(command)} does not run: {error}") from error
    if result.returncode != 0:
        raise BackendError(f"{shlex.join(command)} ends with code {result.returncode}: {result.stderr.strip()}")
    return result.stdout.strip()
