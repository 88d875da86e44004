"""The page of all settings is what the dataclasses say."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

from kshot_ext.nas.runs.settings import RunSettings

ROOT = Path(__file__).parents[2]
TABLES = ("method", "codes", "images", "augmentation", "training", "evaluation", "search", "retrain")
SCRIPT = ROOT / "docs" / "_tools" / "settings_page.py"


def test_the_committed_page_is_up_to_date() -> None:
    made = runpy.run_path(str(SCRIPT))["page"]()
    committed = (ROOT / "docs" / "settings.md").read_text()
    assert committed == made, "docs/settings.md is old: run `PYTHONPATH=. python docs/_tools/settings_page.py`"


def test_rows_tell_default_meaning_and_option() -> None:
    rows = (ROOT / "docs" / "settings.md").read_text().splitlines()
    assert "| `shots`<br>`--shots` | `4` | number K of weight copies, at most 4096. |" in rows
    assert "| `epochs`<br>`--retrain-epochs` | `20` | passes over the training images. |" in rows
    [width] = [row for row in rows if row.startswith("| `width_separation`")]
    assert "| `0.1` |" in width
    assert not any(":class:" in row or "None" in row for row in rows)
    named = {row.split("`")[1] for row in rows if row.startswith("| `")}
    assert {field.name for field in dataclasses.fields(RunSettings) if field.name not in TABLES} <= named
    assert {f"## `[{name}]`" for name in TABLES} <= set(rows)
