"""Builds: what they show, and that those that fail, hang, are killed or doubled leave nothing behind."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from native.small_library import answer

from kshot_ext._native import find as find_module
from kshot_ext._native import flags
from kshot_ext._native.build_display import shown_by
from kshot_ext._native.compiler import find_compiler
from kshot_ext._native.errors import BackendError
from kshot_ext._native.find import Found, find_library
from kshot_ext._native.sources import source_folder as source_folder_in_use

Script = Callable[[str, str], Path]


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


def test_two_processes_build_once(find_elsewhere: Callable[..., subprocess.Popen[str]], script: Script) -> None:
    slow = script("slow", 'case "$*" in *" -c "*) sleep 2;; esac; exec g++ "$@"')
    processes = [find_elsewhere(CXX=str(slow)) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(outputs) == ["built\n", "cached\n"]


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


def test_full_disk_while_building(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BackendError, match=r"No space left on device.*KSHOT_EXT_CACHE"):
        find()


def test_line_break_in_the_name_of_a_folder(source_folder: Path, tmp_path: Path) -> None:
    moved = source_folder.rename(tmp_path / "two\nlines")
    with pytest.raises(BackendError, match="ninja takes no line break in a name"):
        find_library(moved, tmp_path / "prebuilt", tmp_path / "cache")


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


def test_scratch_files_lie_in_the_cache(find: Callable[[], Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/null")
    assert find().origin == "built"


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
