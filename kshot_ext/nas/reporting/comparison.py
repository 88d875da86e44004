"""Two runs side by side: settings that differ, results, numbers over time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot_ext.nas.runs.metrics import read_records
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.tables import as_table, flatten

_ABSENT = "-"
_RESULTS = {
    "results.json": {
        "winner.test_accuracy": "test accuracy of the winner",
        "winner.supernet_accuracy": "its accuracy in the supernet",
        "winner.macs": "its multiply-accumulates",
        "winner.parameters": "its parameters",
        "random.test_accuracy": "test accuracy of the random rival",
        "max_macs": "budget",
    },
    "ranking.json": {
        "kendall_tau": "Kendall's tau",
        "spearman_rho": "Spearman's rho",
        "regret": "regret of the best-ranked",
        "architectures": "architectures ranked",
        "steps": "dictionary steps",
        "code_distance": "distance of codes",
        "min_entry_share": "least share of a copy",
        "seconds": "seconds",
    },
}
_CURVES = {
    ("supernet", "loss"): "Training loss of the supernet",
    ("supernet", "code_distance"): "Distance of codes",
    ("search", "best_accuracy"): "Best accuracy in the search",
    ("ranking", "kendall_tau"): "Kendall's tau",
    ("retrain-winner", "loss"): "Training loss of the winner",
}


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what not.

    Args:
        names: of the runs, never equal.
        settings: those that differ, with the value in each run; "-" where it is not set.
        results: the runs' main numbers likewise; "-" where a run has none (yet).
        curves: by heading, ``(step, value)`` pairs of each run by its name.
    """

    names: tuple[str, str]
    settings: Mapping[str, tuple[str, str]]
    results: Mapping[str, tuple[str, str]]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two runs, finished or not.

    Raises:
        RunFolderError: if one is no run folder, or a file in it is damaged.
        SettingsError: if settings cannot be read.
    """
    records = RunRecord(first), RunRecord(second)
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    settings = [_described(record) for record in records]
    return Comparison(
        names=names,
        settings={name: pair for name, pair in _side_by_side(*settings).items() if pair[0] != pair[1]},
        results=_side_by_side(*(_results(record.path) for record in records)),
        curves=_curves(dict(zip(names, records))),
    )


def _described(record: RunRecord) -> dict[str, Any]:
    card = record.card
    images = {"command": card.command, "images": f"{card.data_name} {card.inputs['data'][:12]}"}
    return {**images, **flatten(as_table(record.settings))}


def _side_by_side(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*first, *second])
    return {name: (_shown(first.get(name)), _shown(second.get(name))) for name in names}


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for file, names in _RESULTS.items():
        path = folder / file
        if path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                content = content["runs"][0] if "runs" in content else content
                numbers = flatten(content)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise RunFolderError(f"{path}: damaged results ({error})") from error
            results |= {title: numbers.get(name) for name, title in names.items()}
    return results


def _curves(records: Mapping[str, RunRecord]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {heading: {} for heading in _CURVES.values()}
    for run, record in records.items():
        path = record.path / "metrics.jsonl"
        try:
            lines = read_records(path)
            for (stage, value), heading in _CURVES.items():
                points = [(line["step"], line[value]) for line in lines if line["stage"] == stage and value in line]
                if points:
                    curves[heading][run] = points
        except (ValueError, LookupError, TypeError) as error:
            raise RunFolderError(f"{path}: damaged ({error})") from error
    return {heading: runs for heading, runs in curves.items() if runs}
