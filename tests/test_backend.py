"""The choice between native kernels and reference."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kshot_ext import backend

COMPILE_FIRST = """
import torch
from kshot_ext import backend

def choose(input):
    if backend.native():
        return input + 1
    return input - 1

def forced(input):
    with backend.use_reference():
        return choose(input)

for function, expected in ((choose, 1), (forced, -1)):
    output = torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(1))
    assert output.item() == expected, (function, output)
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A copy of the backend module that has not chosen yet, with an empty cache."""
    monkeypatch.setenv("KSHOT_EXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KSHOT_EXT_BACKEND", raising=False)
    spec = importlib.util.spec_from_file_location("fresh_backend", backend.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fresh_backend", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh_and_loadable(fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same, with the library of this session in the cache."""
    loaded = backend.info()
    assert loaded.backend == "native"
    assert loaded.cache is not None
    monkeypatch.setenv("KSHOT_EXT_CACHE", str(loaded.cache))
    return fresh


def test_missing_compiler_warns_once_and_falls_back(fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(fresh.BackendWarning, match=r"no-such-compiler is not on PATH.*install g\+\+") as caught:
        assert not fresh.native()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fresh.native()
    info = fresh.info()
    assert info.backend == "reference"
    assert "no-such-compiler is not on PATH" in info.error


def test_forced_native_raises_every_time(fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "native")
    for _ in range(2):
        with pytest.raises(backend.BackendError, match=r"KSHOT_EXT_BACKEND=native, but .*no-such-compiler"):
            fresh.native()


def test_forced_reference_builds_nothing(fresh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "reference")
    assert not fresh.native()
    assert fresh.info() == fresh.BackendInfo("reference", "KSHOT_EXT_BACKEND=reference")
    assert not (tmp_path / "cache").exists()


def test_unknown_value_lists_the_legal_ones(fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "fast")
    for function in (fresh.native, fresh.info):
        with pytest.raises(backend.BackendError, match="'native', 'reference' or unset, but it is 'fast'"):
            function()


def test_unusable_cache_folder_falls_back(fresh: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in place of the folder")
    with pytest.warns(fresh.BackendWarning, match="KSHOT_EXT_CACHE"):
        assert not fresh.native()


def test_library_that_does_not_load_falls_back(fresh_and_loadable: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        try:
            raise OSError("failed to map segment from shared object")
        except OSError as error:
            raise OSError(f"Could not load this library: {path}") from error

    monkeypatch.setattr("torch.ops.load_library", fail)
    message = "does not load .*failed to map segment.*noexec.*KSHOT_EXT_CACHE.* else remove "
    with pytest.warns(fresh_and_loadable.BackendWarning, match=message):
        assert not fresh_and_loadable.native()


def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("no entry in passwd")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "KSHOT_EXT_CACHE"):
        monkeypatch.delenv(name, raising=False)


def home_that_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CACHE_HOME", "KSHOT_EXT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")


def open_quote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "g++ '-O2")


def compiler_without_a_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "silent").write_text("#!/bin/sh\n")
    (tmp_path / "silent").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "silent"))


def no_ninja(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("CXX", shutil.which("g++") or "")
    monkeypatch.setenv("PATH", str(tmp_path))


def cache_of_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)


def surprise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr("kshot_ext._native.find.find_library", fail)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_home, "has no home folder to keep the compiled library in .*KSHOT_EXT_CACHE"),
        (home_that_is_no_folder, "Not a directory.*KSHOT_EXT_CACHE"),
        (open_quote, "CXX is no command as a shell would read it"),
        (compiler_without_a_version, "prints no version number but ''.*name a compiler"),
        (no_ninja, "no ninja, which runs the compiler; to cure it, run pip install ninja"),
        (cache_of_another_user, "may be written by other users"),
        (surprise, "RuntimeError: what nobody foresaw"),
    ],
)
def test_whatever_is_wrong_falls_back_with_one_warning(
    make: Callable[[pytest.MonkeyPatch, Path], None],
    message: str,
    fresh: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(monkeypatch, tmp_path)
    with pytest.warns(fresh.BackendWarning, match=message) as caught:
        assert not fresh.native()
    assert len(caught) == 1
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "native")
    with pytest.raises(backend.BackendError, match=message):
        fresh.native()


def test_a_gpu_that_fails_in_a_surprising_way_falls_back(
    fresh_and_loadable: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reason: str) -> None:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(fresh_and_loadable, "_load_cuda", fail)
    with pytest.warns(fresh_and_loadable.BackendWarning, match="no CUDA kernels.*RuntimeError: the driver is too old"):
        assert fresh_and_loadable.kernels_for(torch.device("cuda")) is None


def test_info_describes_the_library(fresh_and_loadable: ModuleType) -> None:
    info = fresh_and_loadable.info()
    assert info.backend == "native"
    assert info.origin in ("prebuilt", "cached")
    assert info.library.is_file()
    assert info.cpu_capability in ("portable", "avx2", "avx512")
    assert info.build_seconds > 0
    assert info.error is None
    assert ("cpu capability", info.cpu_capability) in info.rows()


def test_callbacks_run_once_whichever_comes_first(fresh_and_loadable: ModuleType) -> None:
    calls = []
    fresh_and_loadable.on_load(lambda: calls.append("before"))
    assert calls == []
    threads = [threading.Thread(target=fresh_and_loadable.native) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["before"]
    fresh_and_loadable.on_load(lambda: calls.append("after"))
    assert calls == ["before", "after"]


def test_use_reference_holds_in_this_thread_only(fresh_and_loadable: ModuleType) -> None:
    native = fresh_and_loadable.native
    elsewhere = []
    with fresh_and_loadable.use_reference():
        assert not native()
        with fresh_and_loadable.use_reference():
            assert not native()
        assert not native()
        thread = threading.Thread(target=lambda: elsewhere.append(native()))
        thread.start()
        thread.join()
    assert elsewhere == [True]
    assert native()


def test_use_reference_ends_with_an_exception(fresh_and_loadable: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError), fresh_and_loadable.use_reference():
        _ = 1 / 0
    assert fresh_and_loadable.native()


def test_transforms_are_the_references(fresh_and_loadable: ModuleType) -> None:
    native, seen = fresh_and_loadable.native, []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append((native(), fresh_and_loadable.under_transform()))
        return x

    one = torch.ones(1)
    torch.func.grad(lambda x: look(x).sum())(one)
    torch.func.vmap(look)(one)
    torch.func.jvp(look, (one,), (one,))
    with torch.autograd.forward_ad.dual_level():
        look(one)
    assert seen == 4 * [(False, True)]
    assert native()
    assert not fresh_and_loadable.under_transform()


def test_first_use_may_be_inside_torch_compile() -> None:
    environment = {**os.environ, "KSHOT_EXT_BACKEND": "native"}
    subprocess.run([sys.executable, "-c", COMPILE_FIRST], env=environment, check=True)


def test_first_use_may_be_inside_a_trace(fresh_and_loadable: ModuleType) -> None:
    """What loads the library calls an operator, which is no part of the graph."""

    def look(input: torch.Tensor) -> torch.Tensor:
        return input + int(fresh_and_loadable.native())

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`torch.jit.* is deprecated")
        traced = torch.jit.trace(look, torch.zeros(1))
    assert traced(torch.zeros(1)).item() == 1
    assert "kshot_ext" not in str(traced.graph)


def test_exports_to_onnx_run_the_reference(fresh_and_loadable: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX has torch's operators, not ours."""
    import torch.onnx

    assert fresh_and_loadable.native()
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert not fresh_and_loadable.native()
    assert fresh_and_loadable.kernels_for(torch.device("cpu")) is None


def test_each_kind_of_device_has_its_kernels(fresh_and_loadable: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    served = fresh_and_loadable.kernels_for
    loaded = fresh_and_loadable.BackendInfo("native", "a test")
    monkeypatch.setattr(fresh_and_loadable, "_load_cuda", lambda reason: loaded)
    assert [served(torch.device(kind)) for kind in ("cpu", "cuda", "meta")] == ["cpu", "cuda", None]
    with fresh_and_loadable.use_reference():
        assert served(torch.device("cpu")) is served(torch.device("cuda")) is None


def test_no_cuda_kernels_warns_once_and_falls_back(
    fresh_and_loadable: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(reason: str) -> None:
        raise fresh_and_loadable.BackendError("no nvcc here")

    monkeypatch.setattr(fresh_and_loadable, "_load_cuda", refuse)
    gpu = torch.device("cuda")
    with pytest.warns(fresh_and_loadable.BackendWarning, match="no CUDA kernels.*no nvcc here"):
        assert fresh_and_loadable.kernels_for(gpu) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh_and_loadable.kernels_for(gpu) is None
    assert fresh_and_loadable.kernels_for(torch.device("cpu")) == "cpu"
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "native")
    with pytest.raises(fresh_and_loadable.BackendError, match="KSHOT_EXT_BACKEND=native, but no nvcc here"):
        fresh_and_loadable.kernels_for(gpu)


def test_without_the_library_no_cuda_library_is_looked_for(fresh: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_BACKEND", "reference")
    monkeypatch.setattr(fresh, "_load_cuda", lambda reason: pytest.fail("looked for"))
    assert fresh.kernels_for(torch.device("cuda")) is None
    assert fresh.cuda_info().backend == "reference"
