"""Modules are built once, again when a file that they are made of changes, and by CMake as by the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulation import build
from cuda_emulation.selection import needs_emulator

pytestmark = needs_emulator

KERNEL = """
#include "value.h"
#include "cuda/platform.cuh"
namespace { __global__ void kernel(int* to) { *to = VALUE; } }
void run(int* to) { KSHOT_LAUNCH(kernel, 1, 1, 0, nullptr, to); }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "value.h").write_text("#define VALUE 1\n")
    kernel = tmp_path / "kernel.cu"
    kernel.write_text(KERNEL)
    return kernel


def test_object_is_compiled_again_only_if_a_file_changed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build._compile(source, ["-O0"])
    with monkeypatch.context() as patch:
        patch.setattr(build, "_run", lambda command: pytest.fail("compiled again"))
        assert build._compile(source, ["-O0"]) == first
    (source.parent / "value.h").write_text("#define VALUE 2\n")
    second = build._compile(source, ["-O0"])
    assert second != first
    assert build._compile(source, ["-O0", "-DOTHER"]) not in (first, second)
    (source.parent / "value.h").write_text("#define VALUE 1\n")
    assert build._compile(source, ["-O0"]) == first


def test_compiler_message_is_told(source: Path) -> None:
    source.write_text(KERNEL.replace("VALUE;", "UNKNOWN;"))
    with pytest.raises(build.BuildError, match="UNKNOWN"):
        build._compile(source, ["-O0"])


def test_binding_must_name_its_kernels(tmp_path: Path) -> None:
    binding = tmp_path / "nameless.cpp"
    binding.write_text("int nothing;\n")
    with pytest.raises(build.BuildError, match="Kernels"):
        build.build_module(binding, "plain")


@pytest.mark.parametrize("binding", sorted((build.HERE / "bindings").glob("*.cpp")), ids=lambda path: path.stem)
def test_kernels_of_a_binding_exist(binding: Path) -> None:
    assert [file for file in build.kernel_files(binding) if not file.is_file()] == []


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_cmake_builds_every_variant(tmp_path: Path) -> None:
    options = ["-DKSHOT_TORCH=OFF", "-DKSHOT_EMULATE_CUDA=ON", "-DKSHOT_EMULATED=block_sums"]
    targets = [f"cuda_emulation_{variant}" for variant in build.VARIANTS]
    for command in (
        ["cmake", "-S", str(build.ROOT), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}", *options],
        ["cmake", "--build", str(tmp_path), "--target", *targets],
    ):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert result.returncode == 0, result.stdout
    for variant in build.VARIANTS:
        assert (tmp_path / "cuda_emulation" / variant / "block_sums.so").is_file()
