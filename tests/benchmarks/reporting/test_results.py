"""Result files: round trip, merging of parts, refusal of what is no result file."""

import json

import pytest
import torch

from benchmarks.measuring.measure import Rival, RowResult, Timed
from benchmarks.measuring.timing import Ratio
from benchmarks.place import Place
from benchmarks.reporting.report import target_table
from benchmarks.reporting.results import Part, file_name, load_document, load_parts, save_part, save_sections
from benchmarks.reporting.targets import reached


def part(work, layer_set, speedups, kind="dense", peaks=(1, 2), **origin):
    rows = [
        RowResult(
            f"row{index}", kind, "1x1", 1, Timed("ours", 1.0, peaks[0]),
            {"pytorch": Rival(Timed("peer", speedup, peaks[1]), Ratio(speedup, speedup, speedup))},
        )
        for index, speedup in enumerate(speedups)
    ]  # fmt: skip
    return Part(work, layer_set, 15, Ratio(1.0, 0.99, 1.01), {"torch": "2", **origin}, rows)


def test_parts_survive_the_file_and_each_other(tmp_path):
    path = tmp_path / "new" / "cpu.json"
    first, second = part("shared_code", "a", [2.0]), part("shared_code", "b", [3.0])
    save_part(path, first)
    save_part(path, second)
    assert load_parts(path) == [first, second]
    replaced = part("shared_code", "a", [4.0])
    assert save_part(path, replaced) == load_parts(path) == [replaced, second]
    assert [file.name for file in path.parent.iterdir()] == ["cpu.json"]


def test_parts_in_another_precision_stay(tmp_path):
    path = tmp_path / "gpu.json"
    parts = [part("sgd", "a", [2.0], precision=precision) for precision in ("bfloat16", "float32", "tf32")]
    for saved in (parts[2], parts[0], parts[1], parts[1]):
        save_part(path, saved)
    assert load_parts(path) == parts
    assert [found.title for found in parts] == ["sgd, a, bfloat16", "sgd, a", "sgd, a, tf32"]


def test_other_sections_stay(tmp_path):
    path = tmp_path / "gpu.json"
    save_sections(path, device={"name": "a"}, rates=[1])
    save_part(path, part("sgd", "a", [2.0]))
    save_sections(path, rates=[2])
    document = load_document(path)
    assert (document["device"], document["rates"]) == ({"name": "a"}, [2])
    assert load_parts(path) == [part("sgd", "a", [2.0])]


def test_file_names(monkeypatch):
    assert file_name(Place()) == "cpu.json"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert file_name(Place("cuda", "tf32")) == "gpu_nvidia_h100_80gb_hbm3.json"


def test_no_file_has_no_parts(tmp_path):
    assert load_parts(tmp_path / "cpu.json") == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 0}'])
def test_other_files_are_refused_and_kept(tmp_path, text):
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cpu\.json"):
        save_part(path, part("sgd", "a", [1.0]))
    assert path.read_text() == text


def test_schema(tmp_path):
    save_part(tmp_path / "cpu.json", part("sgd", "a", [1.0]))
    document = json.loads((tmp_path / "cpu.json").read_text())
    assert set(document) == {"schema", "parts"}
    (saved,) = document["parts"]
    assert set(saved) == {"work", "layer_set", "pairs", "noise", "environment", "rows"}
    assert set(saved["rows"][0]) == {"name", "kind", "geometry", "count", "ours", "rivals"}
    assert set(saved["rows"][0]["rivals"]["pytorch"]) == {"best", "speedup"}


def test_target_takes_mean_and_worst_of_its_kind():
    dense, depthwise = part("shared_code", "a", [0.9, 3.6]), part("shared_code", "b", [2.3], "depthwise")
    by_title = {line.target.title: line for line in reached([dense, depthwise])}
    line = by_title["shared code, dense"]
    assert (line.speedup, line.worst, line.worst_row) == (pytest.approx(1.8), 0.9, "row0")
    assert line.weighted == pytest.approx((0.9**0.9 * 3.6**3.6) ** (1 / 4.5))
    assert not line.met
    assert by_title["shared code, depthwise"].met


@pytest.mark.parametrize(("peaks", "met"), [((5, 10), True), ((7, 10), False), ((None, 10), False)])
def test_memory_target(peaks, met):
    (line,) = reached([part("sgd", "a", [2.5], "update", peaks)])
    assert line.met is met


def test_tables_tell_precisions_apart():
    parts = [part("sgd", "a", [2.5], "update", precision=precision) for precision in ("float32", "bfloat16")]
    (_, layer_sets, *_) = target_table(reached(parts)).columns
    assert list(layer_sets.cells) == ["a", "a, bfloat16"]
