"""The page about optimisers: its code runs, and its gradients stay compact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kshot_ext.ops.compact_gradient import SumOfUses

PAGE = (Path(__file__).parents[1] / "docs" / "optimisers.md").read_text()


@pytest.mark.filterwarnings("error")
def test_the_code_runs(native_backend: None, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.setattr(SumOfUses, "dense", lambda gradient: pytest.fail("a dense gradient was made"))
    names: dict = {}
    exec(code, names)
    assert {state["step"].item() for state in names["optimizer"].state.values()} == {10.0}
