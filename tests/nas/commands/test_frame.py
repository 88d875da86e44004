"""What commands do when the standard streams fail; each in a process of its own, whose streams may be lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BODY = """
import pathlib
from kshot_ext.nas.commands.frame import exit_status

def body(console):
    for number in range(3):
        console.print("line", number)
    pathlib.Path("done").touch()

raise SystemExit(exit_status(body, lambda: "go on with: it"))
"""


def run(folder: Path, redirection: str) -> tuple[int, list[str]]:
    """Exit status and standard error of a command whose standard output goes where the shell is told."""
    script = f'"$0" -c "$1" {redirection}'
    shell = ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}", sys.executable, BODY]
    ended = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stderr.splitlines()


def test_a_run_goes_on_where_nobody_reads(tmp_path: Path) -> None:
    assert run(tmp_path, "| true") == (0, [])
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_named(tmp_path: Path) -> None:
    message = "error: standard output: cannot be written (No space left on device); make room there; go on with: it"
    assert run(tmp_path, "> /dev/full") == (2, [message])
    assert not (tmp_path / "done").exists()
