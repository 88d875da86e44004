"""The page about torch's machinery: each row names tests that exist, and its code runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "torch_machinery.md").read_text()


def rows() -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = re.findall(r"^\|(.+)\|$", PAGE, flags=re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [row for row in cells if row[0] != "machinery" and set(row[0]) != {"-"}]


def test_there_are_rows_of_four_cells() -> None:
    assert len(rows()) > 20
    assert {len(row) for row in rows()} == {4}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_exist(row: list[str]) -> None:
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
    assert names
    for file, name in names:
        module = ast.parse((ROOT / file).read_text())
        assert name in {each.name for each in module.body if isinstance(each, ast.FunctionDef)}, f"{file}::{name}"


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_the_code_runs(native_backend: None, one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)
    assert capsys.readouterr().out == "torch.Size([2, 8, 6, 6])\n"
    assert names["muon"].state
