from __future__ import annotations

import os
import sys

import pytest

from kshot_ext.nas.commands.frame import EXIT_ERROR, exit_status


def test_an_output_that_its_reader_closes_is_an_error_with_the_way_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        status = exit_status(lambda console: console.print("loss 1"), lambda: "go on with: kshot-ext")
    assert status == EXIT_ERROR
    assert capsys.readouterr().err == "error: standard output: Broken pipe; go on with: kshot-ext\n"
