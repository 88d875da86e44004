"""Rankings that share a warm-up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rank_runs import entry_of, recorded_calls

from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.methods import METHODS, MethodSettings, allow_own_method
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.warm_up import load_warm_up


@pytest.fixture(scope="module")
def warmed_up(config: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ranking with one copy that kept its warm-up."""
    out = tmp_path_factory.mktemp("runs") / "one"
    options = {"truth": str(table), "out": str(out), "shots": 1, "keep_warm_up": True}
    assert rank_command(options, config, None) == EXIT_DONE
    return out


_FROM_WARM_UP = {"codes": {"perturbation": 0.0, "start": "count"}}


@pytest.mark.parametrize("shots", [1, 3])
def test_a_run_begins_from_the_warm_up_of_another(warmed_up, config, table, tmp_path, monkeypatch, shots) -> None:
    calls = recorded_calls(monkeypatch)
    options = {"truth": str(table), "shots": shots, "warm_up": str(warmed_up), "out": str(tmp_path / "forked")}
    assert rank_command(options | _FROM_WARM_UP, config, None) == EXIT_DONE
    assert calls.count("train") == 2  # of three epochs one is warm-up
    mine, theirs = entry_of(tmp_path / "forked" / "ranking.json"), entry_of(warmed_up / "ranking.json")
    records = [json.loads(line) for line in (tmp_path / "forked" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["stage"] == "supernet"] == [1, 2, 3]
    assert mine["shots"] == shots
    if shots == 1:
        assert mine["curve"] == theirs["curve"]  # as if it had done the warm-up itself
    else:
        assert mine["code_distance"] > 0.1


def test_a_run_that_shares_a_warm_up_is_resumed(warmed_up, config, table, tmp_path, stop_before_saves) -> None:
    options = {"truth": str(table), "shots": 3, "warm_up": str(warmed_up)} | _FROM_WARM_UP
    assert rank_command(options | {"out": str(tmp_path / "whole")}, config, None) == EXIT_DONE
    stop_before_saves({1, 2, 5})
    assert rank_command(options | {"out": str(tmp_path / "stopped")}, config, None) == EXIT_INTERRUPTED
    for status in (EXIT_INTERRUPTED, EXIT_INTERRUPTED, EXIT_DONE):
        assert rank_command({}, None, tmp_path / "stopped") == status
    assert (
        entry_of(tmp_path / "stopped" / "ranking.json")["curve"]
        == entry_of(tmp_path / "whole" / "ranking.json")["curve"]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"max_images": 190}, "max_images is 200 there, 190 here; its images are others"),
        ({"training": {"warmup_epochs": 2}}, "training.warmup_epochs is 1 there, 2 here"),
        ({"training": {"learning_rate": 0.2}}, "training.learning_rate is 0.1 there, 0.2 here"),
        ({"codes": {"perturbation": 0.1}}, "codes.perturbation: expected 0"),
    ],
)
def test_refuses_a_warm_up_that_it_would_not_have_done(
    warmed_up, config, table, tmp_path, capsys, changed, message
) -> None:
    options = {"truth": str(table), "shots": 2, "warm_up": str(warmed_up), "out": str(tmp_path / "forked")}
    assert rank_command({**options, **_FROM_WARM_UP, **changed}, config, None) == EXIT_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "forked").exists()


def test_methods_that_warm_up_alike_share_one(warmed_up, config, table, tmp_path, capsys) -> None:
    """`kshot` has kept it; single paths begin alike, and a method of one's own does not unless it says so."""
    images = RunRecord(warmed_up).card.inputs["data"]
    settings = RunRecord(warmed_up).settings
    single = replace(settings, method=METHODS["spos"].Settings())
    assert load_warm_up(warmed_up, single, images).state["epoch"] == 1
    (tmp_path / "mine.py").write_text(
        "from kshot_ext.nas.methods.parts.path_method import PathMethod\n"
        "class Mine(PathMethod):\n    summary = paper = 'none'"
    )
    allow_own_method(f"{tmp_path}/mine.py:Mine")
    other = replace(settings, method=MethodSettings(name=f"{tmp_path}/mine.py:Mine"))
    with pytest.raises(RunFolderError, match=r"method is .*paths as training.path_sampling.* there, .*mine.py:Mine"):
        load_warm_up(warmed_up, other, images)


def test_refuses_a_run_that_kept_no_warm_up(finished, config, table, tmp_path, capsys) -> None:
    options = {"truth": str(table), "warm_up": str(finished), "out": str(tmp_path / "forked")}
    assert rank_command(options | _FROM_WARM_UP, config, None) == EXIT_ERROR
    assert "keeps no warm-up; expected a run with keep_warm_up" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "forked").exists()


@pytest.mark.parametrize("shared", [{"keep_warm_up": True}, {"warm_up": "another"}])
@pytest.mark.parametrize("warmup_epochs", [0, 4])
def test_refuses_to_share_a_warm_up_that_has_no_end(config, table, tmp_path, capsys, shared, warmup_epochs) -> None:
    options = {"truth": str(table), "shots": 1, "out": str(tmp_path / "a"), **shared}
    assert rank_command({**options, "training": {"warmup_epochs": warmup_epochs}}, config, None) == EXIT_ERROR
    error = " ".join(capsys.readouterr().err.split())
    assert "training.warmup_epochs: expected 1 to 3, the epochs of the training," in error
    assert error.endswith(f"got {warmup_epochs}")
    assert not (tmp_path / "a").exists()


def test_points_inside_the_warm_up_are_evaluated_by_the_run_that_does_it(config, table, tmp_path) -> None:
    options = {"truth": str(table), "shots": 1, "checkpoints": 3, "training": {"warmup_epochs": 2}}
    one = options | {"keep_warm_up": True, "out": str(tmp_path / "one")}
    assert rank_command(one, config, None) == EXIT_DONE
    assert [point["steps"] for point in entry_of(tmp_path / "one" / "ranking.json")["curve"]] == [4, 8, 12]
    forked = options | {"warm_up": str(tmp_path / "one"), "out": str(tmp_path / "forked")} | _FROM_WARM_UP
    assert rank_command(forked, config, None) == EXIT_DONE
    points = [entry_of(tmp_path / name / "ranking.json")["curve"][-2:] for name in ("one", "forked")]
    assert points[0] == points[1]
    assert [point["steps"] for point in points[1]] == [8, 12]
    assert len(entry_of(tmp_path / "forked" / "ranking.json")["curve"]) == 2
