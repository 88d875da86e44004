"""The report of a GPU, made on the CPU: what is in it, what stays of it, what is refused."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from small_layers import SMALL
from typer.testing import CliRunner

from benchmarks import compare, floors, gpu_report
from benchmarks.measuring import gpu, timing
from benchmarks.measuring.check import WrongValuesError
from benchmarks.measuring.machine import Host
from benchmarks.measuring.measure import Settings
from benchmarks.networks import layer_sets
from benchmarks.place import Place
from benchmarks.reporting.results import load_parts
from benchmarks.works import WORKS

SETTINGS = Settings(pairs=2, compiled=False, memory=False)
PARTS = [("shared_code", "small"), ("batch_norm", "small")]
DEVICE = {"name": "A GPU", "capability": "9.0"}


@pytest.fixture(autouse=True)
def small(monkeypatch, native_backend):
    monkeypatch.setitem(layer_sets(), "small", SMALL)
    monkeypatch.setattr(floors, "COPY_NUMBERS", 2**12)
    monkeypatch.setattr(floors, "MATRIX_SIZES", {"cpu": 32})
    monkeypatch.setattr(floors, "IMAGES", {"cpu": (1, 8, 4, 4)})
    monkeypatch.setattr(timing.gc, "collect", lambda: None)  # takes longer here than all else


@pytest.fixture
def measured(monkeypatch) -> list[tuple[str, str]]:
    """Work and name of the rows that are measured."""
    rows = []
    original = gpu_report.measure

    def measure(work, set_name, row, *rest):
        rows.append((work, row.name))
        return original(work, set_name, row, *rest)

    monkeypatch.setattr(gpu_report, "measure", measure)
    return rows


def run_report(path, parts=PARTS, settings=SETTINGS, precision="float32", **options) -> tuple[list[str], int]:
    console = options.pop("console", Console(quiet=True))
    asked = [(*part, precision) for part in parts]
    return gpu_report.report({precision: Host(Place("cpu", precision))}, asked, settings, path, console, **options)


def report(path, *arguments, **options) -> list[str]:
    failures, left = run_report(path, *arguments, **options)
    assert left == 0
    return failures


def test_parts_and_details(tmp_path):
    path = tmp_path / "gpu.json"
    assert report(path) == []
    document = json.loads(path.read_text())
    assert set(document) == {"schema", "parts", "rates", "details"}
    rates = document["rates"]["float32"]
    for part in document["parts"]:
        details = document["details"][f"{part['work']}, small, float32"]
        assert details["failed"] == []
        assert [row["name"] for row in details["rows"]] == [row["name"] for row in part["rows"]]
        for row, detail in zip(part["rows"], details["rows"]):
            achieved = detail["achieved"]
            assert achieved["bytes_per_second"] / rates["bytes_per_second"] <= achieved["fraction"] * (1 + 1e-9)
            assert ("auto" in detail) == (part["work"] == "shared_code")
            if "auto" in detail:
                assert detail["auto"]["chosen"] in ("fused", "mix_then_conv")
                best = row["rivals"]["algorithm"]
                assert detail["auto"]["fastest"] == best["best"]["form"]
                assert detail["auto"]["time_over_fastest"] == 1 / best["speedup"]["median"]


def test_a_run_that_was_cut_off_goes_on_in_the_middle_of_a_part(tmp_path, measured, monkeypatch):
    """Even killed: each row is in the file when the next one begins."""
    path = tmp_path / "gpu.json"
    original = gpu_report.measure

    def cut_off(*arguments):
        if len(measured) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gpu_report, "measure", cut_off)
        with pytest.raises(KeyboardInterrupt):
            report(path)
    first = list(measured)
    saved = {(part.work, row.name) for part in load_parts(path) for row in part.rows}
    assert saved == set(first)
    assert all(part.rows for part in load_parts(path))
    before = {(part.work, row.name): row for part in load_parts(path) for row in part.rows}
    measured.clear()
    report(path)
    assert set(measured).isdisjoint(first)
    everything = {(part.work, row.name): row for part in load_parts(path) for row in part.rows}
    assert len(everything) == len(first) + len(measured) > 4
    assert {key: everything[key] for key in first} == before
    for part in load_parts(path):
        details = json.loads(path.read_text())["details"][", ".join(part.key)]
        assert [row["name"] for row in details["rows"]] == [row.name for row in part.rows]
    measured.clear()
    report(path)
    assert measured == []


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from pathlib import Path
from rich.console import Console
from small_layers import SMALL
from benchmarks import floors, gpu_report
from benchmarks.measuring.machine import Host
from benchmarks.measuring.measure import Settings
from benchmarks.networks import layer_sets
layer_sets()["small"] = SMALL
floors.COPY_NUMBERS, floors.MATRIX_SIZES, floors.IMAGES = 2**12, {"cpu": 32}, {"cpu": (1, 8, 4, 4)}
original, calls = gpu_report.measure, []
def measure(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
gpu_report.measure = measure
asked = [("batch_norm", "small", "float32"), ("widths", "small", "float32")]
settings = Settings(pairs=2, compiled=False, memory=False)
gpu_report.report({"float32": Host()}, asked, settings, Path(sys.argv[1]), Console(quiet=True))
"""


def test_a_killed_run_has_left_whole_rows(tmp_path):
    path, here = tmp_path / "gpu.json", Path(__file__).resolve()
    command = [sys.executable, "-c", KILLED, str(path), str(here.parents[1]), str(here.parents[2])]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert sum(len(part.rows) for part in load_parts(path)) == 2


class Timer:
    """Seconds that pass as rows are measured."""

    def __init__(self, monkeypatch, seconds: float) -> None:
        self.time = 0.0
        original = gpu_report.measure

        def measure(*arguments):
            self.time += seconds
            return original(*arguments)

        monkeypatch.setattr(gpu_report, "measure", measure)

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(("until", "count"), [(0, 1), (9, 1), (19.9, 1), (20, 2), (45, 4)])
def test_a_budget_is_not_outlasted(until, count, tmp_path, measured, monkeypatch):
    """Rows take 10 s each; only the first begins without knowing whether it fits."""
    path = tmp_path / "gpu.json"
    failures, left = run_report(path, until=until, now=Timer(monkeypatch, 10.0))
    assert (failures, len(measured)) == ([], count)
    assert count + left == len(every_row(PARTS))
    assert sum(len(part.rows) for part in load_parts(path)) == count
    report(path)
    assert sorted(measured) == sorted(every_row(PARTS))


def every_row(parts) -> list[tuple[str, str]]:
    return [(work, row.name) for work, name in parts for row in WORKS[work].rows(layer_sets()[name])]


def test_progress_tells_what_is_left(tmp_path, monkeypatch):
    told = io.StringIO()
    run_report(tmp_path / "gpu.json", now=Timer(monkeypatch, 60.0), console=Console(file=told, width=200))
    lines = told.getvalue().splitlines()
    rows = len(every_row(PARTS))
    assert lines[0] == f"0 of {rows} rows measured before, {rows} to measure"
    assert lines[1].startswith(f"1 of {rows}: shared_code, small, float32, ")
    assert lines[1].endswith(f" in 60.0 s; {rows - 1} rows left, about {rows - 1} min")
    assert lines[-1].endswith("; 0 rows left, about 0 min")


def test_rows_of_a_part_are_measured_alike(tmp_path, monkeypatch):
    """A part begun with more pairs than the next run asks for goes on with those."""
    path, seen = tmp_path / "gpu.json", []
    run_report(path, settings=Settings(pairs=3, compiled=False, memory=False), until=0, now=Timer(monkeypatch, 1.0))
    original = gpu_report.measure

    def measure(work, set_name, row, settings, here):
        seen.append((work, settings.pairs))
        return original(work, set_name, row, settings, here)

    monkeypatch.setattr(gpu_report, "measure", measure)
    report(path)
    assert set(seen) == {("shared_code", 3), ("batch_norm", 2)}


def test_what_is_measured_again(tmp_path, measured, monkeypatch):
    path, parts = tmp_path / "gpu.json", [("batch_norm", "small")]

    def again(**options) -> bool:
        measured.clear()
        report(path, parts, **options)
        return bool(measured)

    assert again()
    assert not again(settings=Settings(pairs=1, compiled=False, memory=False)), "fewer pairs than before"
    assert again(settings=Settings(pairs=3, compiled=False, memory=False))
    assert again(precision="bfloat16")
    assert not again(precision="bfloat16")
    assert again(fresh=True)
    original = gpu_report.environment
    # The first run builds the library, the next one finds it: that is no other program.
    monkeypatch.setattr(gpu_report, "environment", lambda place: {**original(place), "kshot_ext": {"origin": "cached"}})
    assert not again()
    monkeypatch.setattr(gpu_report, "environment", lambda place: {**original(place), "commit": "another"})
    assert again()
    assert {part.precision for part in load_parts(path)} == {"float32", "bfloat16"}


def make_strided_fail(monkeypatch) -> None:
    for module in (compare, gpu_report):

        def fail(work, set_name, row, *rest, original=module.measure):
            if row.name == "strided":
                raise WrongValuesError("off by [1]")
            return original(work, set_name, row, *rest)

        monkeypatch.setattr(module, "measure", fail)


def test_a_row_that_fails_is_told_and_tried_again(tmp_path, monkeypatch):
    path, parts = tmp_path / "gpu.json", [("shared_code", "small")]
    with monkeypatch.context() as patch:
        make_strided_fail(patch)
        failures = report(path, parts)
    assert failures == ["shared_code, small, float32, strided: off by [1]"]
    assert json.loads(path.read_text())["details"]["shared_code, small, float32"]["failed"] == ["strided: off by [1]"]
    assert {row.name for row in load_parts(path)[0].rows} == {"dense", "depthwise"}
    assert report(path, parts) == []
    assert len(load_parts(path)[0].rows) == 3
    assert json.loads(path.read_text())["details"]["shared_code, small, float32"]["failed"] == []


def test_a_row_that_fails_ends_the_comparison(monkeypatch):
    make_strided_fail(monkeypatch)
    with pytest.raises(WrongValuesError, match="off by"):
        compare.measure_part("shared_code", "small", SETTINGS, Host(), Console(quiet=True))


def test_the_report_of_another_device_is_refused_and_kept(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    gpu_report.claim(path, {"name": "Another GPU"})
    before = path.read_text()
    with pytest.raises(typer.Exit) as refusal:
        gpu_report.claim(path, DEVICE)
    assert refusal.value.exit_code == 2
    assert "to be a report of A GPU, got one of Another GPU" in capsys.readouterr().err
    assert path.read_text() == before
    gpu_report.claim(path, {"name": "Another GPU", "driver": "new"})
    assert json.loads(path.read_text())["device"]["driver"] == "new"


@pytest.mark.parametrize("text", ["not JSON", '{"schema": 1, "parts": []}'])
def test_other_files_are_refused_and_kept(tmp_path, text, capsys):
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(typer.Exit) as refusal:
        gpu_report.claim(path, DEVICE)
    assert refusal.value.exit_code == 2
    assert "cpu.json" in capsys.readouterr().err
    assert path.read_text() == text


def run(*arguments: str):
    app = typer.Typer()
    app.command()(gpu_report.main)
    return CliRunner().invoke(app, arguments)


def test_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "available", lambda: False)
    result = run("--output", str(tmp_path / "gpu.json"))
    assert result.exit_code == 2
    assert "expected a CUDA device" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_the_command(fails, tmp_path, monkeypatch):
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(gpu, "description", lambda: DEVICE)
    monkeypatch.setattr(
        Host, "peak_bytes", lambda self, work, set_name, row, forms: {form.name: 1000 for form in forms}
    )
    monkeypatch.setattr(gpu_report, "machine", lambda place: Host(Place("cpu", place.precision)))
    monkeypatch.setattr(gpu_report, "asked_parts", lambda works, sets, precision: [("batch_norm", "small")])
    if fails:
        make_strided_fail(monkeypatch)
    result = run("--quick", "--output", str(path), "--precision", "float32", "--precision", "bfloat16")
    assert result.exit_code == (1 if fails else 0), result.output
    assert ("2 rows failed" in result.output) == fails
    document = json.loads(path.read_text())
    assert document["device"] == DEVICE
    assert "rows are left" not in result.output
    means = [(line["precision"], line["comparison"]) for line in document["means"]]
    assert means == [("bfloat16", "batch norm + ReLU, training"), ("float32", "batch norm + ReLU, training")]
    assert path.with_suffix(".png").exists()


def test_the_command_with_a_budget(tmp_path, monkeypatch):
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(gpu, "description", lambda: DEVICE)
    monkeypatch.setattr(
        Host, "peak_bytes", lambda self, work, set_name, row, forms: {form.name: 1000 for form in forms}
    )
    monkeypatch.setattr(gpu_report, "machine", lambda place: Host(Place("cpu", place.precision)))
    monkeypatch.setattr(gpu_report, "asked_parts", lambda works, sets, precision: [("batch_norm", "small")])
    result = run("--quick", "--output", str(path), "--precision", "float32", "--budget", "1e9")
    assert result.exit_code == 0, result.output
    assert "rows are left" not in result.output
    result = run("--quick", "--output", str(path), "--precision", "float32", "--fresh", "--budget", "0")
    assert result.exit_code == 0, result.output
    rows = len(every_row([("batch_norm", "small")]))
    assert f"the budget is spent; {rows} rows are left for the next run" in result.output
