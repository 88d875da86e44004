"""The short scripts and the notebooks run, in forms small enough for tests."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_converted_model_learns(one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = runpy.run_path(str(EXAMPLES / "convert_a_model.py"))["main"]()
    assert min(accuracies) > 0.85  # a tenth by chance
    assert "K-shot layers: 5" in capsys.readouterr().out


def test_a_search_from_a_program_ends_in_an_exported_network(tmp_path: Path, one_thread: None) -> None:
    scores = runpy.run_path(str(EXAMPLES / "search_from_python.py"))["main"](tmp_path / "run", 1, 200)
    assert scores.shape == (2, 10)
    assert (tmp_path / "run" / "report.html").is_file()
    assert list((tmp_path / "run" / "retrained").iterdir())


def run_notebook(path: Path) -> dict[str, Any]:
    """Run the code of a notebook's cells one after the other, as Jupyter does without magic words."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
    return names


def test_the_notebook_of_layers_says_what_is_true(one_thread: None, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_notebook(EXAMPLES / "layers.ipynb")
    printed = capsys.readouterr().out
    assert printed.count("True") == 3
    assert "False" not in printed
    assert names["found"].argmax().item() == 1
    assert "['Conv2d', 'BatchNorm2d', 'ReLU', 'AdaptiveAvgPool2d', 'Flatten', 'Linear']" in printed


def test_the_notebook_of_a_search_draws_and_exports(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = run_notebook(EXAMPLES / "search.ipynb")
    assert names["exported"].path.is_file()
    [line] = names["axes"].lines
    costs = list(line.get_xdata())
    assert costs == sorted(network.macs for network in names["run"].front)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_the_page_lists_every_script_and_notebook_once() -> None:
    page = (EXAMPLES.parent / "docs" / "examples" / "index.md").read_text()
    short, applications = (
        re.findall(r"^\| \[([\w.]+)\]", part, re.MULTILINE) for part in page.split("## Applications")
    )
    assert sorted(short + applications) == sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
    assert len(short) <= 8
