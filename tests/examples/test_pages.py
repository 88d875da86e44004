"""The pages about the examples say what the committed runs found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "examples"


def rows(page: str) -> list[list[str]]:
    """The cells of the table of results, without its head."""
    table = (DOCS / page).read_text().split("## Results")[1]
    found = re.findall(r"^\| (.+) \|$", table, flags=re.MULTILINE)
    return [row.split(" | ") for row in found[2:]]


def tracker(metrics: dict[str, Any]) -> list[str]:
    overlaps, macs = metrics["average_overlap"], metrics["macs"]
    block = metrics["output_block"]["found"]
    shares = [f"{overlaps[name]:.3f}" for name in ("found", "random", "hand-made")]
    return [*shares, f"{macs['found'] / 1e6:.2f}", f"{macs['hand-made'] / 1e6:.2f}", str(block)]


def dose(metrics: dict[str, Any]) -> list[str]:
    scores, macs = metrics["dose_score_gray"], metrics["macs"]
    teachers = [scores[f"teacher {number}"] for number in (1, 2, 3)]
    errors = [sum(teachers) / 3, *(scores[name] for name in ("ensemble", "student", "student without teachers"))]
    return [*(f"{error:.2f}" for error in errors), f"{macs['student'] / macs['ensemble']:.2f}"]


def strokes(metrics: dict[str, Any]) -> list[str]:
    arms, right = metrics["errors"], metrics["right_strokes"]
    errors = [f"{arm['128']['aligned']:.3f}, {arm['160']['aligned']:.3f}" for arm in arms.values()]
    costs = [f"{metrics['cost_of_stored_targets'][arm]:.3f}" for arm in ("aligned", "adaptive")]
    return [*errors, *costs, f"{right['as stored']:.2f}", f"{right['adapted']:.2f}"]


@pytest.mark.parametrize(
    ("name", "row"), [("light_track", tracker), ("dose_prediction", dose), ("trace_strokes", strokes)]
)
def test_the_table_is_that_of_the_committed_runs(name: str, row: Callable[[dict[str, Any]], list[str]]) -> None:
    runs = json.loads((DOCS / f"{name}.json").read_text())
    assert runs
    assert not any(run["quick"] for run in runs)
    assert rows(f"{name}.md") == [[str(run["seed"]), *row(run)] for run in runs]


def control(runs: list[dict[str, Any]], task: str, arm: str) -> list[str]:
    """Means over the runs: area, thousand steps to the goal, returns in the few scenes and in unseen ones, the gap."""
    results = [run["results"][task][arm] for run in runs]
    area, few, unseen = (sum(result[name] for result in results) / len(runs) for name in ("area", "few", "unseen"))
    steps = [result["steps_to_goal"] for result in results]
    reached = "-" if None in steps else f"{sum(steps) / len(steps) / 1000:.0f}"
    lowest, highest = (f(result["unseen"] for result in results) for f in (min, max))
    return [
        f"{area:.2f}",
        reached,
        f"{few:.2f}",
        f"{unseen:.2f} ({lowest:.2f} to {highest:.2f})",
        f"{few - unseen:.2f}",
    ]


def test_the_tables_about_control_are_the_means_of_the_committed_runs() -> None:
    runs = json.loads((DOCS / "mid_level_control.json").read_text())
    assert len({run["seed"] for run in runs}) == 3
    assert not any(run["quick"] for run in runs)
    tables = (DOCS / "mid_level_control.md").read_text().split("## Results")[1].split("\n\n| ")[1:]
    for task, table in zip(("reach", "explore"), tables, strict=True):
        found = re.findall(r"^\|? ?(.+) \|$", table.split("\n\n")[0], flags=re.MULTILINE)[2:]
        arms = list(runs[0]["results"][task])
        assert [row.split(" | ") for row in found] == [[arm, *control(runs, task, arm)] for arm in arms]


def views(arm: str, runs: list[dict[str, Any]]) -> list[str]:
    found = [run["arms"][arm] for run in runs]
    seeds = [f"{accuracy:.3f} ± {half:.3f}" for accuracy, half in (one["fine_accuracy"] for one in found)]
    coarse = [one["coarse_accuracy"][0] for one in found]
    return [*seeds, f"{fmean(coarse):.3f}", f"{fmean(one['purity'] for one in found):.3f}"]


def background(arm: str, runs: list[dict[str, Any]]) -> list[str]:
    names = ["unseen_recall", "unseen_ap", "generalised_unseen_ap", "generalised_seen_ap"]
    names += ["unseen_called_background", "background_called_unseen"]
    return [f"{fmean(run['arms'][arm][name] for run in runs):.2f}" for name in names]


@pytest.mark.parametrize(("name", "row"), [("few_shot_views", views), ("background_cascade", background)])
def test_the_table_of_arms_is_that_of_the_committed_runs(
    name: str, row: Callable[[str, list[dict[str, Any]]], list[str]]
) -> None:
    runs = json.loads((DOCS / f"{name}.json").read_text())
    assert [run["seed"] for run in runs] == [3, 4, 5]
    assert not any(run["quick"] for run in runs)
    assert rows(f"{name}.md") == [[arm, *row(arm, runs)] for arm in runs[0]["arms"]]
