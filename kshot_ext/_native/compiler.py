"""The C++ compiler: which one, which version, is it recent enough."""

import os
import re
import shlex
import shutil
from dataclasses import dataclass

from kshot_ext._native.errors import BackendError
from kshot_ext._native.process import run

_DEFAULTS = ("g++", "clang++", "c++")
_OLDEST = {"g++": 9, "clang": 10}
_SECONDS = 30.0  # to tell its version
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
    def program(self) -> str:
        """The compiler itself, without a launcher such as ccache before it and options behind it."""
        return self.command[len(self.command) - len(self.options) - 1]

    @property
    def options(self) -> tuple[str, ...]:
        """What `CXX` gives the compiler: all from the first word on that begins with a dash."""
        first = next((index for index, word in enumerate(self.command) if word.startswith("-")), len(self.command))
        return self.command[first:]

    @property
    def identity(self) -> str:
        """Family, version and options of `CXX`: what the compiled result depends on."""
        return shlex.join([self.family, self.version, *self.options])


def find_compiler() -> Compiler:
    """The compiler that `CXX` names; without `CXX`, the first usable one of g++, clang++ and c++.

    Raises:
        BackendError: none is there, or none is recent enough.
    """
    chosen = _words(os.environ.get("CXX", ""))
    candidates = [tuple(chosen)] if chosen else [(name,) for name in _DEFAULTS]
    refusals = []
    for command in candidates:
        try:
            return _inspect(command)
        except BackendError as refusal:
            refusals.append(str(refusal))
    origin = "CXX names no usable C++ compiler" if chosen else "no usable C++ compiler"
    raise BackendError(f"{origin}: {'; '.join(refusals)}. To cure it, {_CURE}")


def _words(wish: str) -> list[str]:
    try:
        words = shlex.split(wish)
    except ValueError as error:
        raise BackendError(
            f"CXX is no command as a shell would read it ({error}): {wish!r}. To cure it, {_CURE}"
        ) from error
    if words and (not words[0] or words[0].startswith("-")):
        raise BackendError(f"CXX must begin with the name of a compiler, got {wish!r}. To cure it, {_CURE}")
    return words


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
    result = run(command, _SECONDS)
    if result.returncode != 0:
        raise BackendError(f"{shlex.join(command)} ends with code {result.returncode}: {result.stderr.strip()}")
    return result.stdout.strip()
