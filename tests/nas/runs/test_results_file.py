from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from kshot_ext.nas.runs.results_file import ResultsFileError, add_result, check_results_file


def _names(path: Path) -> list[str]:
    return [run["run"] for run in json.loads(path.read_text())["runs"]]


def test_runs_are_added_and_a_repeated_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    for run, tau in (("a", 0.1), ("b", 0.2), ("a", 0.3)):
        add_result(path, {"run": run, "kendall_tau": tau})
    assert json.loads(path.read_text()) == {
        "runs": [{"run": "b", "kendall_tau": 0.2}, {"run": "a", "kendall_tau": 0.3}]
    }


def test_runs_without_a_name_stay(tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    path.write_text('{"runs": [{"shots": 1}]}')
    add_result(path, {"run": "a"})
    assert json.loads(path.read_text()) == {"runs": [{"shots": 1}, {"run": "a"}]}


def _add_ten(path: Path, name: str) -> None:
    for number in range(10):
        add_result(path, {"run": f"{name}{number}"})


def test_processes_do_not_lose_each_others_runs(tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_ten, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(_names(path)) == sorted(f"{name}{number}" for name in "abc" for number in range(10))
    assert [file.name for file in tmp_path.iterdir()] == ["ranking.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"runs": [3]}', "\xff"])
def test_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ranking.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ResultsFileError, match=r"ranking\.json: expected"):
        add_result(path, {"run": "a"})
    with pytest.raises(ResultsFileError):
        check_results_file(path)
    assert path.read_text(encoding="latin-1") == content
