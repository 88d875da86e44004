"""The page about training: its code and its settings work as they stand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.training.path_sampling import PATH_SAMPLINGS
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text()


def test_the_settings_are_legal(tmp_path: Path) -> None:
    (settings,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "page.toml").write_text(settings)
    gathered = gather_settings(RunSettings(), tmp_path / "page.toml", {})
    assert (gathered.codes.temperature_at_start, gathered.training.path_sampling) == (2.0, "fair")


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})
    assert re.fullmatch(r"loss \d\.\d\d, codes 0\.\d{3} apart\n", capsys.readouterr().out)


def test_every_setting_of_codes_and_every_strategy_is_explained() -> None:
    names = [field.name for field in dataclasses.fields(CodeSettings)] + list(PATH_SAMPLINGS)
    assert [name for name in names if not re.search(rf"\b{name}\b", PAGE)] == []
    assert [name for name in SIMPLEX_OBJECTIVES if f"\n| `{name}` |" not in PAGE or f"\n* `{name}`: " not in PAGE] == []
