"""Figures name the commit that they were taken at, and whether the program differed from it."""

import subprocess
from pathlib import Path

from benchmarks.measuring.environment import commit


def git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_results_are_no_change_but_anything_else_is(tmp_path):
    assert commit(tmp_path) == ""
    for name in ("kshot_ext/a.py", "benchmarks/b.py", "benchmarks/results/cpu.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "benchmarks/results/cpu.json").write_text("2")
    assert commit(tmp_path) == head
    for name in ("kshot_ext/a.py", "benchmarks/b.py"):
        (tmp_path / name).write_text("2")
        assert commit(tmp_path) == head + "+changes"
        git(tmp_path, "checkout", "-q", name)


def test_figures_name_this_checkout():
    root = Path(__file__).resolve().parents[3]
    expected = git(root, "rev-parse", "HEAD") if (root / ".git").exists() else ""
    assert commit().removesuffix("+changes") == expected
