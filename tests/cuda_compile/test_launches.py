"""Every launch of a kernel is checked: there is one spelling for it, which asks for the error."""

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
PLATFORM = SOURCES / "cuda" / "platform.cuh"
FILES = [path for path in sorted(SOURCES.rglob("*")) if path.suffix in (".cu", ".cuh", ".cpp", ".h")]

# All ways to start one that the CUDA runtime and driver have.
LAUNCHES = re.compile(r"<<<|\bKSHOT_START\b|\bcu(da)?Launch\w*\(")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_kernels_are_launched_by_the_macro_that_checks(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if LAUNCHES.search(line)]
    assert lines == [] or path == PLATFORM


def test_the_macro_checks_under_the_name_of_the_kernel() -> None:
    text = PLATFORM.read_text().replace("\\\n", " ")
    launch = re.search(r"#define KSHOT_LAUNCH\(.*", text)
    assert launch is not None
    assert re.search(r"KSHOT_START\(kernel, .*\);\s*::kshot::cuda::check_start\(#kernel\);", launch[0])
    assert len(LAUNCHES.findall(text)) == 3  # its definition, <<< in it, and its one use
