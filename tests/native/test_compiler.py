"""Choice of the C++ compiler."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kshot_ext._native import compiler
from kshot_ext._native.compiler import Compiler, find_compiler
from kshot_ext._native.errors import BackendError

Script = Callable[[str, str], Path]

# A stand-in that answers as g++ or clang++ of some version would.
BANNER = 'case "$*" in *--version) echo "{banner}";; *-dumpfullversion|*-dumpversion) echo "{version}";; esac'


@pytest.fixture(autouse=True)
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only stand-ins can be found."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)


def test_prefers_gcc(script: Script) -> None:
    script("g++", BANNER.format(banner="g++ (Distribution 9)", version="9.1.0"))
    script("clang++", BANNER.format(banner="clang version 15.0", version="15.0.1"))
    assert find_compiler() == Compiler(("g++",), "g++", "9.1.0")


def test_falls_back_to_clang_past_an_old_gcc(script: Script) -> None:
    script("g++", BANNER.format(banner="g++ (Distribution 8)", version="8.5.0"))
    script("clang++", BANNER.format(banner="Debian clang version 15.0", version="15.0.1"))
    assert find_compiler() == Compiler(("clang++",), "clang", "15.0.1")


def test_environment_variable_wins_and_may_hold_arguments(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script("g++", BANNER.format(banner="g++", version="12.1.0"))
    script("ccache", 'exec "$@"')
    monkeypatch.setenv("CXX", "ccache g++ -O1 '-DNAME=a b'")
    found = find_compiler()
    assert found == Compiler(("ccache", "g++", "-O1", "-DNAME=a b"), "g++", "12.1.0")
    assert (found.program, found.options) == ("g++", ("-O1", "-DNAME=a b"))
    assert found.identity == "g++ 12.1.0 -O1 '-DNAME=a b'"


def test_none_there() -> None:
    with pytest.raises(BackendError, match=r"g\+\+ is not on PATH; clang\+\+ is not .*install g\+\+ 9 or later"):
        find_compiler()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BANNER.format(banner="g++", version="8.5.0"), r"is g\+\+ 8\.5\.0, expected 9 or later"),
        (BANNER.format(banner="clang", version="4.2.1"), r"is clang 4\.2\.1, expected 10 or later"),
        (BANNER.format(banner="g++", version="unknown"), "prints no version number but 'unknown'"),
        ("echo no licence >&2; exit 3", "ends with code 3: no licence"),
        ("printf 'sch\\374n' >&2; exit 3", "ends with code 3: sch\ufffdn"),
        (":", "prints no version number but ''"),
    ],
)
def test_unusable(body: str, message: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(script("mine", body)))
    with pytest.raises(BackendError, match=f"CXX names no usable C.. compiler: .*{message}"):
        find_compiler()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("g++ '-O2", "CXX is no command as a shell would read it .No closing quotation.: .*name a compiler"),
        ("g++ \\", "CXX is no command as a shell would read it .No escaped character"),
        ("''", "CXX must begin with the name of a compiler, got \"''\""),
        ("-O2", "CXX must begin with the name of a compiler, got '-O2'"),
    ],
)
def test_wish_that_is_no_command(wish: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", wish)
    with pytest.raises(BackendError, match=message):
        find_compiler()


def test_text_in_any_encoding(script: Script) -> None:
    """A vendor's g++ may greet in Latin-1."""
    script("g++", BANNER.format(banner="g++ (\\374ber)", version="12.2.0").replace("echo", "printf"))
    assert find_compiler() == Compiler(("g++",), "g++", "12.2.0")


def test_compiler_that_hangs(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_SECONDS", 0.2)
    script("g++", "while :; do :; done")
    with pytest.raises(BackendError, match=r"g\+\+ --version has not ended after 0 s; clang\+\+ is not on PATH"):
        find_compiler()
