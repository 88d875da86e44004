from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import kshot_ext
from kshot_ext.nas import provenance


def test_the_environment_names_versions_processor_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda root: "abc+changes")
    monkeypatch.setattr(provenance, "cpu_field", lambda name: {"model name": "Some CPU"}[name])
    found = provenance.environment()
    assert found["kshot_ext"] == f"{kshot_ext.__version__}, commit abc+changes"
    assert found["torch"] == torch.__version__
    assert found["CPU"].startswith("Some CPU, ")
    monkeypatch.setattr(provenance, "commit", lambda root: "")
    assert provenance.environment()["kshot_ext"] == kshot_ext.__version__


def test_a_folder_inside_of_a_checkout_is_none(tmp_path: Path) -> None:
    """Such as an environment with this package in a project of the user's."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "inside").mkdir()
    assert len(provenance.commit(tmp_path)) == 40
    assert provenance.commit(tmp_path / "inside") == ""
