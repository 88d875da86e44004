"""The page about data: its code runs, and prints what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


@pytest.mark.usefixtures("one_thread")
def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "data_page"}
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    for code, printed in blocks:
        exec(code, names)
        assert capsys.readouterr().out == printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metric"] == "accuracy"
