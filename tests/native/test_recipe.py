"""Keys of the cache: builds that differ in anything that matters have other ones."""

import dataclasses
import platform
import re
from pathlib import Path

import pytest

from kshot_ext._native import flags
from kshot_ext._native.compiler import Compiler
from kshot_ext._native.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]


def test_key_depends_on_all_that_matters(source_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Recipe(source_folder, Compiler(("g++",), "g++", "12.2.0"), ("portable",))
    keys = [base.key]
    keys.append(dataclasses.replace(base, compiler=Compiler(("g++",), "g++", "13.1.0")).key)
    keys.append(dataclasses.replace(base, compiler=Compiler(("g++",), "clang", "12.2.0")).key)
    keys.append(dataclasses.replace(base, compiler=Compiler(("g++", "-O1"), "g++", "12.2.0")).key)
    keys.append(dataclasses.replace(base, compiler=Compiler(("g++", "-m32"), "g++", "12.2.0")).key)
    keys.append(dataclasses.replace(base, instruction_sets=("portable", "avx2")).key)
    for module, name, value in (
        (flags, "OPS", ("-DTORCH_TARGET_VERSION=0x020b000000000000",)),
        (flags, "COMPILE", (*flags.COMPILE, "-g")),
        (flags, "LINK", ("-shared", "-s")),
        (flags, "INSTRUCTION_SETS", {"portable": ("-msse4.2",)}),
        (platform, "machine", lambda: "riscv64"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            keys.append(base.key)
    (source_folder / "cpu" / "new.h").write_text("")
    keys.append(base.key)
    (source_folder / "cpu" / "new.h").write_text("// comment")
    keys.append(base.key)
    assert len(set(keys)) == len(keys)


def test_key_does_not_depend_on_where_things_are(source_folder: Path, tmp_path: Path) -> None:
    base = Recipe(source_folder, Compiler(("g++",), "g++", "12.2.0"), ("portable",))
    moved = source_folder.rename(tmp_path / "moved")
    elsewhere = Recipe(moved, Compiler(("ccache", "/opt/bin/g++"), "g++", "12.2.0"), ("portable",))
    source_folder.symlink_to(moved)
    assert elsewhere.key == base.key


def test_the_target_is_the_oldest_torch_allowed() -> None:
    allowed = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert allowed is not None
    assert (int(allowed[1]), int(allowed[2])) == flags.TORCH_TARGET
    # torch reads the version off the two leading bytes.
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in flags.OPS
