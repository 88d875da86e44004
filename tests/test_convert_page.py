"""The page about converting: its code runs, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

import kshot_ext

PAGE = (Path(__file__).parents[1] / "docs" / "convert.md").read_text()


@pytest.mark.filterwarnings("error")
def test_the_code_runs(capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    first, *others = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (printed,) = re.findall(r"```\n(K-shot layers.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {"__name__": "__main__"}
    with pytest.warns(UserWarning, match="mix: __main__.Halved is a subclass of Linear"):
        exec(first, names)
    assert capsys.readouterr().out == printed
    for other in others:
        exec(other, names)
    assert capsys.readouterr().out == "SampleRows(axis=1, together=True)\n"
    report = kshot_ext.conversion_report
    assert list(report(names["only_attention"]).swapped) == ["self_attn", "multihead_attn"]
    assert list(report(names["no_norms"]).swapped) == ["table", "scores"]
    assert list(report(kshot_ext.convert(nn.Sequential(names["Shifted"]()), 2)).swapped) == ["0"]
    decays = {id(p): group["weight_decay"] for group in names["optimizer"].param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in names["model"].named_parameters()} == {
        "table.weight": 1e-4,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "mix.weight": 1e-4,
        "mix.bias": 0.0,
    }
