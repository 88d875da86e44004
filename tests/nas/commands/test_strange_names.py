"""Names as users and file systems have them: no UTF-8, markup of rich and HTML, line breaks, very long."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest
import torch
from PIL import Image

from kshot_ext.nas.api.session import Session
from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.compare import compare_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.messages import visible
from kshot_ext.nas.methods.parts.code_findings import codes_map
from kshot_ext.nas.reporting import page
from kshot_ext.nas.runs.settings import RunSettings

CLASSES = [b"caf\xe9", b"[red]x[bold]:smile:", b"<b>&\"'\n$x_{$", b"\xff" * 200, "長い".encode() * 30]
OUT = b"run[/red]\xe9\n$x_{$<b>"
SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
epochs = 1
retrain_epochs = 1
[training]
batch_size = 8
warmup_epochs = 0
[retrain]
batch_size = 8
[search]
population = 2
generations = 1
"""


class StrictTerminal:
    """Standard output and error of ASCII, which refuse what they cannot show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, stream in self.shown.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding="ascii", write_through=True))
        self.wrappers = sys.stdout, sys.stderr  # which would close what they wrap


def test_a_run_of_strange_names_is_finished_reported_analysed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one test, as it takes a run, whose figures are drawn in earnest."""
    monkeypatch.chdir(tmp_path)
    terminal = StrictTerminal(monkeypatch)
    for name in CLASSES:
        folder = os.path.join(os.fsencode(tmp_path), b"images", name)
        os.makedirs(folder)
        for number in range(10):
            Image.new("L", (8, 8), 20 * number).save(os.path.join(os.fsdecode(folder), f"{number}.png"))
    (tmp_path / "config.toml").write_text(SETTINGS)
    runs = [os.fsdecode(OUT), "other"]
    for seed, out in enumerate(runs):
        options = {"data": "images", "out": out, "seed": seed}
        assert search_command(options, tmp_path / "config.toml", None) == EXIT_DONE, terminal.shown["stderr"].getvalue()
    run = Path(runs[0])
    assert set(json.loads((run / "architecture.json").read_text())["class_names"]) == set(map(os.fsdecode, CLASSES))
    assert "Use the network" in (run / "report.html").read_text()
    assert search_command({}, None, run) == EXIT_DONE, terminal.shown["stderr"].getvalue()
    assert analyse_command(run) == EXIT_DONE
    assert "<b>" not in (run / "analysis" / "analysis.html").read_text().partition("<h1>")[2].partition("</h1>")[0]
    assert compare_command(run, Path("other"), Path("page.html")) == EXIT_DONE
    page = Path("page.html").read_text()
    assert page.count(r"red]\xe9\n$x_{$&lt;b&gt;") >= 2
    assert compare_command(run, Path("other")) == EXIT_DONE  # the page's name comes from those of the runs
    assert len(list(tmp_path.glob("compare-*-other.html"))) == 1
    assert terminal.shown["stderr"].getvalue() == b""
    assert rb"run folder: run[/red]\xe9\n$x_{$<b>" in terminal.shown["stdout"].getvalue()


@pytest.mark.parametrize("name", ["data", "truth"])
def test_settings_that_their_file_cannot_keep_are_refused_at_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert search_command({name: os.fsdecode(b"caf\xe9.zip")}, None, None) == EXIT_ERROR
    assert re.search(rf"{name}: expected text that settings.toml can keep.*caf\\xe9.zip", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_the_way_to_go_on_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    run = Session("search", tmp_path / os.fsdecode(b"it's\xe9\n"))
    run.path.mkdir()
    (run.path / "run.json").touch()
    command = run.how_to_go_on().partition("go on with: ")[2]
    assert command.isprintable()
    word = command.removeprefix("kshot-ext search --resume ")
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert printed == os.fsencode(run.path)


@pytest.mark.parametrize("data_name", ["x" * 250, "a\nb", "[red]", "長" * 200])
def test_the_default_folder_takes_any_name_of_data(
    tmp_path: Path, tiny_splits: DataSplits, data_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Session("search", None)
    folder = run.open_folder(RunSettings(), data_name, tiny_splits, ())
    assert folder.card.data_name == data_name
    assert re.fullmatch(r"\d{8}-\d{6}-[\w.-]+-nas-bench-macro", folder.path.name)
    run.close()


def test_runs_of_one_second_get_folders_of_their_own(
    tmp_path: Path, tiny_splits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    runs = [Session("search", None) for _ in range(3)]
    names = [run.open_folder(RunSettings(), "digits", tiny_splits, ()).path.name for run in runs]
    first = "20260101-000000-digits-nas-bench-macro"
    assert names == [first, f"{first}-2", f"{first}-3"]
    for run in runs:
        run.close()


@pytest.mark.parametrize("title", ["_hidden", "$x_{$", "a\nb", os.fsdecode(b"\xe9"), "<b>", "x" * 500])
def test_figures_take_any_name(title: str) -> None:
    figures = [
        Figure(title, title, curves_chart({title: [(1, 2.0)], "other": [(1, 1.0)]}, title, "y")),
        Figure("codes", "", codes_map(torch.eye(2), [title, "b"])),
    ]
    table = page.Table((title,), [(title,)])
    text = page.render("compare.html", title=title, lead=title, settings=table, results=table, figures=figures)
    shown = escape(visible(title), quote=False)
    assert f"</svg>{shown}</li>" in text
    assert text.count(f"<h2>{shown}</h2>") == 1
    assert "<b>" not in text
    text.encode()
