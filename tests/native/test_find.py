"""Prebuilt, cached or built: builds that are killed, doubled, half done or damaged never hang or load."""

import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot_ext._native import find as find_module
from kshot_ext._native import flags
from kshot_ext._native.build_display import shown_by
from kshot_ext._native.compiler import Compiler, find_compiler
from kshot_ext._native.errors import BackendError
from kshot_ext._native.find import Found, find_library, prebuild
from kshot_ext._native.recipe import Recipe
from kshot_ext._native.sources import source_folder as source_folder_in_use

ROOT = Path(__file__).resolve().parents[2]
Script = Callable[[str, str], Path]

FIND = """
import sys
from pathlib import Path
from kshot_ext._native.find import find_library
print(find_library(*map(Path, sys.argv[1:])).origin)
"""


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


def answer(found: Found) -> int:
    return ctypes.CDLL(str(found.library.path)).answer()


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


def test_a_build_shows_how_many_files_are_compiled(
    find: Callable[[], Found], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = script("slow", 'case "$*" in *" -c "*nothing*) sleep 0.6;; esac; exec g++ "$@"')
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setenv("NINJA_STATUS", "of the user's own ")
    calls: list[tuple[object, ...]] = []

    class Display:
        def start(self, text: str, files: int) -> None:
            calls.append((text.split(" (")[0], files))

        def move(self, done: int) -> None:
            calls.append((done,))

        def finish(self, outcome: str) -> None:
            calls.append((outcome.split(" in ")[0],))

    with shown_by(Display()):
        find()
    assert calls[0] == ("building the native kernels", 1 + len(flags.instruction_sets()))
    assert (1,) in calls
    assert calls[-1] == ("done",)


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


def test_entry_holds_library_and_metadata_only(find: Callable[[], Found], cache_folder: Path) -> None:
    entry = find().library.path.parent
    assert {path.name for path in entry.iterdir()} == {"build.json", "libkshot_ext.so"}
    assert {path.name for path in cache_folder.iterdir()} == {entry.name, "lock"}


def remove_metadata(entry: Path) -> None:
    (entry / "build.json").unlink()


def cut_metadata(entry: Path) -> None:
    (entry / "build.json").write_text((entry / "build.json").read_text()[:20])


def empty_metadata(entry: Path) -> None:
    (entry / "build.json").write_text("[]")


def remove_library(entry: Path) -> None:
    (entry / "libkshot_ext.so").unlink()


def cut_library(entry: Path) -> None:
    os.truncate(entry / "libkshot_ext.so", 100)


def flip_byte_of_library(entry: Path) -> None:
    content = bytearray((entry / "libkshot_ext.so").read_bytes())
    content[len(content) // 2] ^= 1
    (entry / "libkshot_ext.so").write_bytes(content)


DAMAGES = [remove_metadata, cut_metadata, empty_metadata, remove_library, cut_library, flip_byte_of_library]


@pytest.mark.parametrize("damage", DAMAGES)
def test_rebuilds_what_is_half_built_or_damaged(damage: Callable[[Path], None], find: Callable[[], Found]) -> None:
    damage(find().library.path.parent)
    again = find()
    assert (again.origin, answer(again)) == ("built", 42)
    assert find().origin == "cached"


def test_two_processes_build_once(find_elsewhere: Callable[..., subprocess.Popen[str]], script: Script) -> None:
    slow = script("slow", 'case "$*" in *" -c "*) sleep 2;; esac; exec g++ "$@"')
    processes = [find_elsewhere(CXX=str(slow)) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(outputs) == ["built\n", "cached\n"]


def test_killed_build_leaves_no_trace_and_no_hang(
    find: Callable[[], Found],
    find_elsewhere: Callable[..., subprocess.Popen[str]],
    cache_folder: Path,
    script: Script,
) -> None:
    never_ends = script("never_ends", 'case "$*" in *" -c "*) touch "$0.begun"; sleep 60;; esac; exec g++ "$@"')
    process = find_elsewhere(CXX=str(never_ends))
    while not never_ends.with_name("never_ends.begun").exists():
        assert process.poll() is None, "the build ended before it was killed"
        time.sleep(0.05)
    try:
        process.kill()
        process.communicate()
        assert len(list(cache_folder.glob("building-*"))) == 1
        begin = time.monotonic()
        found = find()
        assert (found.origin, answer(found)) == ("built", 42)
        assert time.monotonic() - begin < 30
        assert list(cache_folder.glob("building-*")) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_compile_error_is_shown_and_leaves_nothing(
    find: Callable[[], Found], source_folder: Path, cache_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (source_folder / "ops" / "answer.cpp").write_text("int answer() { return undeclared_name; }\n")
    with pytest.raises(BackendError, match=r"do not compile with g\+\+(.|\n)*undeclared_name"):
        find()
    assert " failed in " in capfd.readouterr().err
    assert [path.name for path in cache_folder.iterdir()] == ["lock"]


def test_refuses_library_that_others_may_have_written(find: Callable[[], Found], cache_folder: Path) -> None:
    entry = find().library.path.parent
    for folder in (cache_folder, entry):
        folder.chmod(0o777)
        with pytest.raises(BackendError, match="may be written by other users"):
            find()
        folder.chmod(0o700)
    assert find().origin == "cached"


@pytest.mark.parametrize("name", ["libkshot_ext.so", "build.json"])
def test_refuses_file_that_others_may_have_written(name: str, find: Callable[[], Found]) -> None:
    file = find().library.path.with_name(name)
    file.chmod(0o666)
    with pytest.raises(BackendError, match=f"{name} may be written by other users"):
        find()
    file.chmod(0o644)
    assert find().origin == "cached"
    elsewhere = file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(elsewhere)
    with pytest.raises(BackendError, match=f"{name} is no file of its own"):
        find()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_refuses_library_of_another_user(find: Callable[[], Found]) -> None:
    library = find().library.path
    os.chown(library, 54321, 54321)
    with pytest.raises(BackendError, match=r"libkshot_ext\.so belongs to user id 54321"):
        find()


def test_without_locks_processes_build_side_by_side(
    find: Callable[[], Found], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one finishes while this one builds: its library stays."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    build, inodes = find_module.build_library, []

    def build_after_another(*arguments: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(find_module, "build_library", build)
            inodes.append(find().library.path.stat().st_ino)
        build(*arguments)

    monkeypatch.setattr(find_module, "build_library", build_after_another)
    found = find()
    assert (found.origin, answer(found)) == ("built", 42)
    assert [found.library.path.stat().st_ino] == inodes
    assert list(cache_folder.glob("building-*")) == []


@pytest.mark.parametrize("use", [os.fsencode("caf\xe9"), os.fsencode("\u0436\u4e2d"), b"not \xff UTF-8", b"x" * 200])
def test_cache_folders_of_any_name(
    use: bytes, source_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + use))
    for origin in ("built", "cached"):
        found = find_library(source_folder, tmp_path / "prebuilt", folder)
        assert (found.origin, answer(found)) == (origin, 42)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 300, "File name too long.*KSHOT_EXT_CACHE"), ("/dev/null/cache", "Not a directory.*KSHOT_EXT_CACHE")],
)
def test_cache_folders_that_cannot_be(name: str, message: str, source_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=message):
        find_library(source_folder, tmp_path / "prebuilt", tmp_path / name)


def test_line_break_in_the_name_of_a_folder(source_folder: Path, tmp_path: Path) -> None:
    moved = source_folder.rename(tmp_path / "two\nlines")
    with pytest.raises(BackendError, match="ninja takes no line break in a name"):
        find_library(moved, tmp_path / "prebuilt", tmp_path / "cache")


def test_full_disk_while_building(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BackendError, match=r"No space left on device.*KSHOT_EXT_CACHE"):
        find()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'fatal error: no space left on device' >&2; exit 1", "cure it, name another compiler"),
        ("echo 'fatal error: error writing: No space left on device' >&2; exit 1", "free space on the disk of"),
        ("exit 0", "made no library; to cure it, name another compiler"),
        ("printf 'l\\374cke' >&2; exit 1", "l\ufffdcke"),
    ],
)
def test_compilers_that_fail(
    body: str, message: str, find: Callable[[], Found], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it is told to make is there afterwards, or ninja would complain; of the library the last case has nothing.
    made = 'for last; do :; done; case "$last" in *.o) : > "$last";; esac; '
    query = 'case "$*" in *version) exec g++ "$@";; esac; '
    monkeypatch.setenv("CXX", str(script("failing", query + made + body)))
    with pytest.raises(BackendError, match=message):
        find()


def test_compiler_for_another_processor(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch is not compiled for does not link with it."""
    monkeypatch.setenv("CXX", "g++ -m32")
    with pytest.raises(BackendError, match=r"do not compile with g\+\+ -m32"):
        find()


def test_compiler_that_hangs_while_it_compiles(
    find: Callable[[], Found], cache_folder: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "_LEAST_LIMIT", 0.5)
    monkeypatch.setattr(find_module, "_LIMIT_OVER_EXPECTED", 0)
    monkeypatch.setenv("CXX", str(script("hangs", 'case "$*" in *" -c "*) exec sleep 60;; esac; exec g++ "$@"')))
    begin = time.monotonic()
    with pytest.raises(BackendError, match="has not ended after 0 s"):
        find()
    assert time.monotonic() - begin < 20
    assert [path.name for path in cache_folder.iterdir()] == ["lock"]


def test_scratch_files_lie_in_the_cache(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/null")
    assert find().origin == "built"


def test_cached_library_needs_no_writable_folder(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    find()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert find().origin == "cached"


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


def test_an_upgrade_of_torch_needs_no_build(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    built = find()
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert find() == Found(built.library, "cached")


def test_the_target_is_the_oldest_torch_allowed() -> None:
    allowed = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert allowed is not None
    assert (int(allowed[1]), int(allowed[2])) == flags.TORCH_TARGET
    # torch reads the version off the two leading bytes.
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in flags.OPS


def test_key_does_not_depend_on_where_things_are(source_folder: Path, tmp_path: Path) -> None:
    base = Recipe(source_folder, Compiler(("g++",), "g++", "12.2.0"), ("portable",))
    moved = source_folder.rename(tmp_path / "moved")
    elsewhere = Recipe(moved, Compiler(("ccache", "/opt/bin/g++"), "g++", "12.2.0"), ("portable",))
    source_folder.symlink_to(moved)
    assert elsewhere.key == base.key


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ops/absent.cpp", "there is no such file"),
        ("gpu/mix.cu", "expected a path that starts with one of ops/, cpu/, ops_cuda/, cuda/"),
    ],
)
def test_source_list_with_a_mistake(line: str, message: str, find: Callable[[], Found], source_folder: Path) -> None:
    with (source_folder / "sources.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(BackendError, match=f"sources.txt lists '{line}'.*{message}"):
        find()


def test_first_build_takes_no_longer_than_120_small_files(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KSHOT_EXT_ISAS", "host")  # what a user gets
    # Processor time, not time on the clock, which a busy machine stretches; and in files, as processors differ.
    file = seconds_of_children(lambda: compile_small_files(tmp_path)) / len(SMALL_FILES)

    def build() -> None:
        assert find_library(source_folder_in_use(), tmp_path / "prebuilt", cache_folder).origin == "built"

    assert seconds_of_children(build) < 120 * file  # 80 on an Intel Xeon, where the build took 48 s of processor time


def seconds_of_children(work: Callable[[], None]) -> float:
    """Processor time of the processes that `work` starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


SMALL_FILES = (
    # Of the standard library, of vectors, and of torch, which our own files are made of.
    """#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>
std::map<std::string, int> f(std::vector<std::string> words) {
  std::map<std::string, int> counts;
  std::sort(words.begin(), words.end());
  for (auto& w : words) ++counts[w];
  return counts;
}""",
    """#include <immintrin.h>
#include <cmath>
#include <vector>""",
    """#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>""",
)


def compile_small_files(folder: Path) -> None:
    include = Path(torch.__file__).parent / "include"
    for number, text in enumerate(SMALL_FILES):
        name = f"small_{number}.cpp"
        (folder / name).write_text(text)
        command = [*find_compiler().command, "-std=c++17", "-O2", *flags.OPS, "-isystem", str(include), "-c", name]
        subprocess.run(command, cwd=folder, check=True)
