"""A source tree that compiles in a fraction of a second, the search for its library, and compilers that misbehave on
purpose."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot_ext._native.find import Found, find_library

ANSWER = """\
extern "C" __attribute__((visibility("default"))) int answer() { return 42; }
"""

FIND = """
import sys
from pathlib import Path
from kshot_ext._native.find import find_library
print(find_library(*map(Path, sys.argv[1:])).origin)
"""


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    """One source file of `ops/` and one of `cpu/`, in a folder whose name needs quoting."""
    folder = tmp_path / "my $sources: here" / "csrc"
    for name, content in {
        "sources.txt": "# comment\nops/answer.cpp\n\ncpu/nothing.cpp\n",
        "ops/answer.cpp": ANSWER,
        "cpu/nothing.cpp": "namespace KSHOT_ISA { void nothing() {} }\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where builds of this test go: not yet there, and with characters that need quoting."""
    folder = tmp_path / "my $cache: folder"
    monkeypatch.setenv("KSHOT_EXT_CACHE", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writer of shell scripts that stand in for compilers: file name and body give the path."""

    def write(name: str, body: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def find(source_folder: Path, cache_folder: Path, tmp_path: Path) -> Callable[[], Found]:
    return lambda: find_library(source_folder, tmp_path / "prebuilt", cache_folder)


@pytest.fixture
def find_elsewhere(source_folder: Path, cache_folder: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the same search in a process, and a process group, of its own."""
    command = [sys.executable, "-c", FIND, *map(str, (source_folder, tmp_path / "prebuilt", cache_folder))]

    def start(**variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **variables}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)

    return start
