"""The library of the CUDA kernels: found, built, loaded; a GPU is not needed for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kshot_ext._native import cuda_compiler, find
from kshot_ext._native.cuda_compiler import (
    ARCHITECTURES,
    CudaCompiler,
    find_cuda_compiler,
    present_architectures,
    wished_architectures,
)
from kshot_ext._native.errors import BackendError
from kshot_ext._native.sources import source_folder

OPERATORS = (
    "adamw_update",
    "effective_weight",
    "effective_weight_backward",
    "mix_weights",
    "mix_weights_backward",
    "fused_conv2d",
    "fused_conv2d_backward",
    "batch_norm_act",
    "batch_norm_act_backward",
    "sgd_update",
)


def reason_to_skip() -> str:
    """Why the library cannot be built here; empty if it can."""
    try:
        find_cuda_compiler()
    except BackendError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())
def test_library_builds_loads_and_registers_its_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_CUDA_ARCHS", "90")
    found = find.find_cuda_library(source_folder(), tmp_path / "prebuilt", tmp_path / "cache")
    assert found.origin == "built"
    code = f"""
import torch
from kshot_ext import backend
assert backend.native()
torch.ops.load_library({str(found.library.path)!r})
for name in {OPERATORS!r}:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("kshot_ext::" + name, "CUDA"), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert find.find_cuda_library(source_folder(), tmp_path / "prebuilt", tmp_path / "cache").origin == "cached"


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match="built without CUDA; install a torch with CUDA"):
        find_cuda_compiler()


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ("release 12.4, V12.4.99", r"is of CUDA 12\.4, torch .* has CUDA 13\.0: install a CUDA toolkit"),
        ("no number", "names no release"),
    ],
)
def test_nvcc_that_does_not_fit(release: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho 'nvcc: NVIDIA (R) Cuda compiler driver, {release}'\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(BackendError, match=message):
        find_cuda_compiler()


def test_no_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_compiler, "_nvcc", lambda: None)
    with pytest.raises(BackendError, match="no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda"):
        find_cuda_compiler()


@pytest.mark.parametrize(
    ("wish", "names"), [("80;90", ("80", "90")), ("86 120", ("86", "120")), ("all", ARCHITECTURES), ("", ())]
)
def test_architectures_wished_for(wish: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_CUDA_ARCHS", wish)
    assert wished_architectures() == names


@pytest.mark.parametrize("wish", ["70", "sm_90", "8.0"])
def test_architectures_that_are_none(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_CUDA_ARCHS", wish)
    with pytest.raises(BackendError, match="KSHOT_EXT_CUDA_ARCHS must be"):
        wished_architectures()


@pytest.mark.parametrize(("present", "names"), [([(9, 0), (8, 6), (9, 0)], ("86", "90")), ([(7, 5), (8, 0)], ("80",))])
def test_architectures_of_the_gpus_present(
    present: list[tuple[int, int]], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(present))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: present[index])
    assert present_architectures() == names


@pytest.mark.parametrize(("present", "named"), [([], "none"), ([(7, 0)], "7.0")])
def test_no_gpu_that_the_kernels_support(
    present: list[tuple[int, int]], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(present))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: present[index])
    with pytest.raises(BackendError, match=f"compute capability 8.0 or later; present: {named}"):
        present_architectures()


def test_without_nvcc_nothing_is_built_ahead_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_compiler, "_nvcc", lambda: None)
    target = tmp_path / "_prebuilt_cuda"
    target.mkdir()  # of an earlier build
    find.prebuild_cuda(source_folder(), target)
    assert not target.exists()
    line = capsys.readouterr().err
    assert line.startswith("kshot_ext: the CUDA kernels are not built ahead of time: no nvcc in CUDA_HOME"), line


@pytest.mark.parametrize(("wish", "names"), [("", ARCHITECTURES), ("90", ("90",))])
def test_architectures_built_ahead_of_time(
    wish: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them without a wish: the machine that builds need not have the GPU."""
    monkeypatch.setenv("KSHOT_EXT_CUDA_ARCHS", wish)
    monkeypatch.setattr(find, "find_cuda_compiler", lambda: CudaCompiler(("nvcc",), "13.0", tmp_path))
    recipes = []
    monkeypatch.setattr(find, "build", lambda recipe, folder, occasion: recipes.append(recipe))
    find.prebuild_cuda(source_folder(), tmp_path / "_prebuilt_cuda")
    assert [recipe.architectures for recipe in recipes] == [names]
