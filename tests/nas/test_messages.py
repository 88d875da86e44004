from __future__ import annotations

import os
import subprocess

import pytest

from kshot_ext.nas.messages import file_name, in_shell, one_line, visible

NAMES = [
    "plain",
    "my run",
    "it's",
    "a\nb\tc\r",
    "\x1b[31mred",
    "\x7f\x01",
    "été 長",
    "back\\slash\n'",
    "$HOME\n",
    "\u2028",
]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"caf\xe9\xff")])
def test_a_shell_reads_the_same_name(name: str) -> None:
    assert in_shell(name).isprintable()
    printed = subprocess.run(["bash", "-c", f"printf %s {in_shell(name)}"], capture_output=True, check=True).stdout
    assert printed == os.fsencode(name)


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"caf\xe9\xff")])
def test_what_is_shown_is_printable_and_utf8(name: str) -> None:
    assert visible(name).isprintable()
    visible(name).encode()
    assert visible("été") == "été"
    assert visible(os.fsdecode(b"\xe9\x1b")) == r"\xe9\x1b"


def test_a_long_error_of_many_lines_is_one_short_line() -> None:
    assert one_line("a\n  b") == "a b"
    assert len(one_line("x" * 10_000)) < 310


@pytest.mark.parametrize("name", [*NAMES, "x" * 300, "長" * 300, "..", "", "/"])
def test_part_of_a_file_name(name: str) -> None:
    part = file_name(name)
    assert 0 < len(part.encode()) <= 80
    assert part.isprintable()
    assert not set(part) & set(" /$'\\")
    assert not part.startswith(".")
