"""Two runs side by side: settings that differ, results, numbers over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot_ext.nas.charts import is_finite
from kshot_ext.nas.files import is_there, read_json
from kshot_ext.nas.findings import Curve, Number
from kshot_ext.nas.messages import in_shell, notice, one_line, visible
from kshot_ext.nas.methods import METHODS, method_class
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.reporting.report import CORRELATION_TITLES
from kshot_ext.nas.runs.metrics import read_records
from kshot_ext.nas.runs.results import read_run_results
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.tables import as_table, flatten

_ABSENT = "-"
_RESULTS = {
    "results.json": {
        "winner.test_accuracy": "test accuracy of the winner",
        "winner.supernet_loss": "its loss in the supernet",
        "winner.supernet_accuracy": "its accuracy in the supernet",
        "winner.macs": "its multiply-accumulates",
        "winner.parameters": "its parameters",
        "comparison.winner.mean": "mean over its trainings",
        "comparison.rivals.mean": "mean test accuracy of its random rivals",
        "comparison.rivals.deviation": "standard deviation of its rivals",
        "max_macs": "budget",
    },
    "ranking.json": {
        **{f"{name}_by_loss": f"{title}, by loss" for name, title in CORRELATION_TITLES.items()},
        **{name: f"{title}, by accuracy" for name, title in CORRELATION_TITLES.items()},
        "architectures": "architectures ranked",
        "steps": "training steps",
        "seconds": "seconds",
    },
}
_CURVES = tuple(
    Curve(stage, name, heading, heading.lower())
    for stage, name, heading in (
        ("supernet", "loss", "Training loss of the supernet"),
        ("search", "best_loss", "Loss of the best of the search"),
        ("search", "best_accuracy", "Accuracy of the best of the search"),
        ("ranking", "kendall_tau_by_loss", "Kendall's tau by loss"),
        ("ranking", "kendall_tau_better_half_by_loss", "Kendall's tau by loss among the better half"),
        ("ranking", "kendall_tau", "Kendall's tau by accuracy"),
        ("retrain-winner", "loss", "Training loss of the winner"),
    )
)


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what not.

    Args:
        names: of the runs, never equal.
        settings: those that differ, with the value in each run; "-" where it is not set.
        results: the runs' main numbers likewise; "-" where a run has none (yet).
        curves: what was recorded over time, and ``(step, value)`` pairs of each run by its name.
    """

    names: tuple[str, str]
    settings: Mapping[str, tuple[str, str]]
    results: Mapping[str, tuple[str, str]]
    curves: Mapping[Curve, Mapping[str, Sequence[tuple[float, float]]]]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two runs, finished or not.

    Raises:
        RunFolderError: if one is no run folder, or a file in it is damaged.
        SettingsError: if settings cannot be read.
    """
    records: tuple[RunRecord[Any], RunRecord[Any]] = RunRecord(first), RunRecord(second)
    names = records[0].name, records[1].name
    if names[0] == names[1]:
        names = visible(str(first)), visible(str(second))
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    settings = [_described(record) for record in records]
    methods = [*METHODS.values(), *(method_class(record.settings.method.name) for record in records)]
    return Comparison(
        names=names,
        settings={name: pair for name, pair in _side_by_side(*settings).items() if pair[0] != pair[1]},
        results=_side_by_side(*(_results(record, methods) for record in records)),
        curves=_curves(dict(zip(names, records)), methods),
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


def _results(record: RunRecord, methods: Sequence[type[Method]]) -> dict[str, Any]:
    """The main numbers, and what methods tell of their own; a file knows which of it is there."""
    told = dict.fromkeys(number for method in methods for number in method.numbers)
    results: dict[str, Any] = {}
    for file, names in _RESULTS.items():
        path = record.path / file
        try:
            if is_there(path):
                content = read_json(path)["runs"][0] if file == "ranking.json" else read_run_results(path)
                if content.get("run", record.card.run) != record.card.run:
                    raise ValueError("of another run")
                numbers = flatten(content)
                results |= {title: _checked(numbers.get(name), Number(name, title)) for name, title in names.items()}
                there = (number for number in told if number.name in numbers)
                results |= {number.title: _checked(numbers[number.name], number) for number in there}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RunFolderError(
                f"{path}: damaged results ({one_line(error)}); the command that made them makes them again: "
                f"kshot-ext {record.card.command} --resume {in_shell(record.path)}"
            ) from error
    return results


def _checked(value: Any, number: Number) -> int | float | str | None:
    if number.words:
        if value not in (None, *number.words):
            raise ValueError(f"{number.name}: expected one of {', '.join(number.words)}, got {value!r:.40}")
    elif value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"{number.name}: expected a number, got {value!r:.40}")
    return value


def _curves(
    records: Mapping[str, RunRecord], methods: Sequence[type[Method]]
) -> dict[Curve, dict[str, list[tuple[float, float]]]]:
    of_methods = (curve for method in methods for curve in method.curves)
    curves: dict[Curve, dict[str, list[tuple[float, float]]]] = {
        curve: {} for curve in dict.fromkeys([_CURVES[0], *of_methods, *_CURVES[1:]])
    }
    for run, record in records.items():
        path = record.path / "metrics.jsonl"
        try:
            content = read_records(path)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be read ({error.strerror})") from error
        if content.damaged:
            notice(f"{path}: {content.damage}; left out")
        for curve, runs in curves.items():
            points = [
                (line["step"], line[curve.name])
                for line in content.records
                if line["stage"] == curve.stage and is_finite(line.get(curve.name))
            ]
            if points:
                runs[run] = points
    return {curve: runs for curve, runs in curves.items() if runs}
