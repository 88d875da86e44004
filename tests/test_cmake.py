"""The CMake build for C++ developers, and the C++ tests under `tests/cpp`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kshot_ext._native.sources import listed_sources

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize(
    "options",
    [
        ["-DKSHOT_TORCH=ON"],
        ["-DKSHOT_TORCH=OFF", "-DKSHOT_SANITIZE=address,undefined"],
        ["-DKSHOT_TORCH=OFF", "-DKSHOT_SANITIZE=thread"],
    ],
    ids=[
        "with torch",
        "kernels under address and undefined behaviour sanitizers",
        "kernels under the thread sanitizer",
    ],
)
def test_cmake_build_passes_its_tests(options: list[str], tmp_path: Path) -> None:
    def run(*command: str) -> str:
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert result.returncode == 0, result.stdout
        return result.stdout

    build = str(tmp_path / "build")
    run("cmake", "-B", build, f"-DPython_EXECUTABLE={sys.executable}", *options)
    run("cmake", "--build", build, "--parallel", "2")
    assert "100% tests passed" in run("ctest", "--test-dir", build, "--no-tests=error", "--output-on-failure")

    commands = json.loads((tmp_path / "build" / "compile_commands.json").read_text())
    compiled = {
        Path(command["file"]).relative_to(ROOT / "csrc").as_posix() for command in commands if "csrc" in command["file"]
    }
    kernels = {source for source in listed_sources(ROOT / "csrc") if source.startswith("cpu/")}
    assert kernels <= compiled
