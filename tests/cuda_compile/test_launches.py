"""Every launch of a kernel is checked: there is one spelling for it, which asks for the error."""

import re
import subprocess
from pathlib import Path

import pytest
from cuda_compile import toolkit

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


REFUSED = """
#include <cstdio>
#include "cuda/platform.cuh"
namespace {
__global__ void first_kernel(int* to) { *to = 1; }
template <int value> __global__ void second_kernel(int* to) { *to = value; }
}  // namespace
int main() {
  for (int turn = 0; turn < 2; ++turn) {
    try {
      if (turn == 0) KSHOT_LAUNCH(first_kernel, 1, 4096, 0, nullptr, nullptr);
      else KSHOT_LAUNCH((second_kernel<7>), 1, 4096, 0, nullptr, nullptr);
      std::puts("started");
    } catch (const std::exception& error) {
      std::puts(error.what());
    }
  }
}
"""


@pytest.mark.skipif(toolkit.missing() is not None, reason=f"{toolkit.missing()}: no CUDA program was compiled")
def test_the_cuda_runtime_refuses_by_name(tmp_path: Path) -> None:
    """With a GPU or without: blocks of 4096 threads start nowhere."""
    (tmp_path / "refused.cu").write_text(REFUSED)
    command = [str(toolkit.find("nvcc")), toolkit.VIRTUAL, "-std=c++17", "-O0", f"-I{SOURCES}"]
    subprocess.run([*command, "refused.cu", "-o", "refused"], cwd=tmp_path, check=True)
    lines = subprocess.run([tmp_path / "refused"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [re.sub("start: .*", "start", line) for line in lines] == [
        "the CUDA kernel first_kernel did not start",
        "the CUDA kernel (second_kernel<7>) did not start",
    ]
