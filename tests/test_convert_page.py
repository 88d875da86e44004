"""The page about converting: its code runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "convert.md").read_text()


@pytest.mark.filterwarnings("error")
def test_the_code_runs(capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    first, second, third = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (printed,) = re.findall(r"```\n(K-shot layers.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    with pytest.warns(UserWarning, match="scores: its weight is also table.weight"):
        exec(first, names)
    assert capsys.readouterr().out == printed
    exec(second, names)
    decays = {id(p): group["weight_decay"] for group in names["optimizer"].param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in names["model"].named_parameters()} == {
        "table.weight": 1e-4,
        "mix.weight": 1e-4,
        "mix.bias": 0.0,
    }
    with pytest.warns(UserWarning, match="self_attn.out_proj: NonDynamicallyQuantizableLinear is a subclass"):
        exec(third, names)
    assert capsys.readouterr().out == "SampleRows(axis=1, together=True)\n"
