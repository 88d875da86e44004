"""Which library is found: prebuilt, else cached, else built; and what is said of one that is passed over."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from native.small_library import answer, flip_byte_of_library

from kshot_ext._native.compiler import find_compiler
from kshot_ext._native.errors import BackendError
from kshot_ext._native.find import Found, prebuild

Script = Callable[[str, str], Path]


def test_builds_once_and_says_so(find: Callable[[], Found], capfd: pytest.CaptureFixture[str]) -> None:
    built = find()
    assert (built.origin, answer(built)) == ("built", 42)
    assert (built.library.metadata.torch_target, built.library.metadata.cuda) == ("2.10", "")
    assert built.library.metadata.compiler == find_compiler().identity
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("kshot_ext: building the native kernels (first use, about ")
    assert " done in " in lines[0]

    cached = find()
    assert cached == Found(built.library, "cached")
    assert capfd.readouterr().err == ""


def test_without_a_compiler_a_library_that_one_has_built_is_used(
    find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch, script: Script, source_folder: Path, cache_folder: Path
) -> None:
    """An image that is built with a compiler may be used without."""
    older = find()
    monkeypatch.setenv(
        "CXX", str(script("newer", 'case "$*" in -dumpfullversion) echo 99.0;; *) exec g++ "$@";; esac'))
    )
    newer = find()
    os.utime(older.library.path.with_name("build.json"), (0, 0))
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = find()
    assert (found.library, found.origin) == (newer.library, "cached")
    assert found.note.startswith("CXX names no usable C++ compiler: no-such-compiler is not on PATH")
    newer.library.path.write_bytes(b"damaged")
    assert find().library == older.library
    cache_folder.chmod(0o777)  # others may have put a library there
    with pytest.raises(BackendError, match="no-such-compiler is not on PATH"):
        find()
    cache_folder.chmod(0o700)
    (source_folder / "ops" / "answer.cpp").write_text("// others\n")
    with pytest.raises(BackendError, match="no-such-compiler is not on PATH"):
        find()


def test_prebuilt_library_needs_no_compiler_and_no_cache(
    find: Callable[[], Found],
    source_folder: Path,
    cache_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prebuild(source_folder, tmp_path / "prebuilt")
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = find()
    assert (found.origin, found.note, answer(found)) == ("prebuilt", "", 42)
    assert not cache_folder.exists()


def other_torch(source_folder: Path, prebuilt: Path) -> None:
    change_metadata(prebuilt, torch_target="2.99")


def other_cuda(source_folder: Path, prebuilt: Path) -> None:
    change_metadata(prebuilt, cuda="12")


def change_metadata(folder: Path, **changes: str) -> None:
    content = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps({**content, **changes}))


def other_sources(source_folder: Path, prebuilt: Path) -> None:
    (source_folder / "ops" / "new.h").write_text("")


def other_library(source_folder: Path, prebuilt: Path) -> None:
    flip_byte_of_library(prebuilt)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (other_torch, "the prebuilt library is for the stable ABI of torch 2.99, expected 2.10"),
        (other_cuda, "the prebuilt library is for CUDA 12, torch has CUDA none"),
        (other_sources, "the prebuilt library was built from other sources than those in "),
        (other_library, "the prebuilt library is incomplete or damaged"),
    ],
)
def test_prebuilt_library_that_does_not_fit_is_explained(
    change: Callable[[Path, Path], None],
    note: str,
    find: Callable[[], Found],
    source_folder: Path,
    tmp_path: Path,
) -> None:
    prebuild(source_folder, tmp_path / "prebuilt")
    change(source_folder, tmp_path / "prebuilt")
    for origin in ("built", "cached"):
        found = find()
        assert found.origin == origin
        assert found.note.startswith(note)
