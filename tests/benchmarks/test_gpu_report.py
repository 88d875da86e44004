"""The report of a GPU, made on the CPU: what is in it, what stays of it, what is refused."""

import json

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

SETTINGS = Settings(pairs=2, compiled=False, memory=False)
PARTS = [("shared_code", "small"), ("batch_norm", "small")]
DEVICE = {"name": "A GPU", "capability": "9.0"}


@pytest.fixture(autouse=True)
def small(monkeypatch, native_backend):
    monkeypatch.setitem(layer_sets(), "small", SMALL)
    monkeypatch.setattr(floors, "COPY_NUMBERS", 2**12)
    monkeypatch.setattr(floors, "MATRIX_SIZES", {"cpu": 32})
    monkeypatch.setattr(timing.gc, "collect", lambda: None)  # takes longer here than all else


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Names of the rows that are measured."""
    names = []
    original = compare.measure
    monkeypatch.setattr(compare, "measure", lambda work, *rest: names.append(work) or original(work, *rest))
    return names


def report(path, parts=PARTS, settings=SETTINGS, precision="float32", fresh=False):
    console = Console(quiet=True)
    return gpu_report.report(Host(Place("cpu", precision)), parts, settings, path, console, fresh)


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


def test_a_run_that_was_cut_off_goes_on(tmp_path, measured, monkeypatch):
    path = tmp_path / "gpu.json"
    original = gpu_report.measure_part

    def cut_off(work, *rest):
        if work == "batch_norm":
            raise KeyboardInterrupt
        return original(work, *rest)

    monkeypatch.setattr(gpu_report, "measure_part", cut_off)
    with pytest.raises(KeyboardInterrupt):
        report(path)
    assert set(measured) == {"shared_code"}
    monkeypatch.setattr(gpu_report, "measure_part", original)
    measured.clear()
    report(path)
    assert set(measured) == {"batch_norm"}
    measured.clear()
    report(path)
    assert measured == []
    assert [part.work for part in load_parts(path)] == ["batch_norm", "shared_code"]


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
    original = compare.measure

    def fail(work, set_name, row, *rest):
        if row.name == "strided":
            raise WrongValuesError("off by [1]")
        return original(work, set_name, row, *rest)

    monkeypatch.setattr(compare, "measure", fail)


def test_a_row_that_fails_is_told_and_tried_again(tmp_path, monkeypatch):
    path, parts = tmp_path / "gpu.json", [("shared_code", "small")]
    with monkeypatch.context() as patch:
        make_strided_fail(patch)
        failures = report(path, parts)
    assert failures == ["strided: off by [1]"]
    assert json.loads(path.read_text())["details"]["shared_code, small, float32"]["failed"] == ["strided: off by [1]"]
    assert [row.name for row in load_parts(path)[0].rows] == ["dense", "depthwise"]
    assert report(path, parts) == []
    assert len(load_parts(path)[0].rows) == 3


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
    means = [(line["precision"], line["comparison"]) for line in document["means"]]
    assert means == [("bfloat16", "batch norm + ReLU, training"), ("float32", "batch norm + ReLU, training")]
    assert path.with_suffix(".png").exists()
