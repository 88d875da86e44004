"""The page about sliced supernets: its code runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "sliced_supernets.md").read_text()


@pytest.mark.filterwarnings("error")
def test_the_code_runs(capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    names: dict = {"__name__": "__main__"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)
    printed = re.findall(r"^prints `(.*?)`", PAGE, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == printed
