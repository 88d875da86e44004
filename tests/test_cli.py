"""The `kshot-ext` command."""

import pytest
from typer.testing import CliRunner

from kshot_ext import backend
from kshot_ext.cli import app


def test_info_prints_the_backend() -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    assert backend.info().backend in result.stdout
    assert "cpu capability" in result.stdout


def test_info_fails_where_native_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = backend.BackendInfo("reference", "the native kernels are not available", error="no compiler")
    monkeypatch.setattr(backend, "info", lambda: broken)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 1
    assert "no compiler" in result.stdout


def test_info_explains_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise backend.BackendError("expected KSHOT_EXT_BACKEND to be [something else]")

    monkeypatch.setattr(backend, "info", refuse)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 1
    assert "[something else]" in result.stdout
