"""Result files: round trip, merging of parts, refusal of what is no result file."""

import json

import pytest

from benchmarks.measure import Rival, RowResult, Timed
from benchmarks.results import Part, load_parts, save_part
from benchmarks.targets import reached
from benchmarks.timing import Ratio


def part(work, layer_set, speedups, kind="dense", peaks=(1, 2)):
    rows = [
        RowResult(
            f"row{index}", kind, "1x1", 1, Timed("ours", 1.0, peaks[0]),
            {"pytorch": Rival(Timed("peer", speedup, peaks[1]), Ratio(speedup, speedup, speedup))},
        )
        for index, speedup in enumerate(speedups)
    ]  # fmt: skip
    return Part(work, layer_set, 15, Ratio(1.0, 0.99, 1.01), {"torch": "2"}, rows)


def test_parts_survive_the_file_and_each_other(tmp_path):
    path = tmp_path / "new" / "cpu.json"
    first, second = part("shared_code", "a", [2.0]), part("shared_code", "b", [3.0])
    save_part(path, first)
    save_part(path, second)
    assert load_parts(path) == [first, second]
    replaced = part("shared_code", "a", [4.0])
    assert save_part(path, replaced) == load_parts(path) == [replaced, second]
    assert [file.name for file in path.parent.iterdir()] == ["cpu.json"]


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
