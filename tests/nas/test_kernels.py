"""A build of the kernels is a stage of the run that needs them."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from rich.console import Console

from kshot_ext import backend
from kshot_ext._native.build_display import display
from kshot_ext.nas.kernels import build_kernels
from kshot_ext.nas.progress import ConsoleProgress


@pytest.mark.parametrize("terminal", [False, True])
def test_a_build_is_shown_as_a_stage(
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[torch.device] = []

    def build(device: torch.device) -> None:
        asked.append(device)
        shown = display()
        shown.start("building (about 9 s)", 41)
        shown.move(7)
        shown.finish("done in 8.0 s")

    monkeypatch.setattr(backend, "kernels_for", build)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with caplog.at_level(logging.INFO, "kshot_ext"), ConsoleProgress(console) as progress:
        build_kernels(torch.device("cuda"), progress)
    assert asked == [torch.device("cuda")]
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "building (about 9 s)" in shown
    assert ("compile kernels" in shown and "41/41" in shown) == terminal
    assert caplog.messages == ["building (about 9 s)", "building the native kernels: done in 8.0 s"]
    assert capsys.readouterr() == ("", "")
