"""The files that a finished ranking run leaves for its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.files import write_text
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.networks.evaluation import SCORES
from kshot_ext.nas.ranking.rank_job import RankJob, RankResult, ranking_entry
from kshot_ext.nas.reporting import method_parts, page, plots
from kshot_ext.nas.reporting.page import Table
from kshot_ext.nas.reporting.report import (
    CORRELATION_TITLES,
    LEAD,
    correlation_facts,
    seconds_by_stage,
    shown_correlation,
)
from kshot_ext.nas.runs.results_file import add_result
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import as_table, flatten

OUTPUTS = ("evaluated.json", "ranking.json", "report.html")
"""Names of the files that `write_ranking` leaves in the run folder."""

_HEADLINE = ("Kendall's tau", "Kendall's tau among the better half", "best truth of its ten favourites")
_CURVES = {
    "Kendall's tau by loss": "kendall_tau_by_loss",
    "the same among the better half": "kendall_tau_better_half_by_loss",
    "Kendall's tau by accuracy": "kendall_tau",
}


def write_ranking(
    folder: RunFolder[RankSettings],
    job: RankJob,
    result: RankResult,
    records: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the results and the report.

    Args:
        folder: the run folder.
        job: the finished job.
        result: what it found.
        records: lines of ``metrics.jsonl``.

    Returns:
        Path of ``report.html``.
    """
    path = folder.path
    entry = ranking_entry(folder.card.run, job, result)
    evaluated = [
        {"architecture": item.architecture.short(), "truth": item.truth, **asdict(item.scores), "macs": item.macs}
        for item in result.architectures
    ]
    write_text(path / "evaluated.json", strict_json(evaluated, indent=2) + "\n")
    write_text(path / "report.html", _report(folder, job, result, records))
    add_result(path / "ranking.json", entry)
    if job.settings.results is not None:
        add_result(Path(job.settings.results), entry)
    return path / "report.html"


def correlations(result: RankResult) -> dict[str, dict[str, str]]:
    """The numbers of the ranking by each score for people, the score that was asked for first."""
    order = sorted(SCORES, key=lambda score: score != result.score)
    return {f"by {score}": correlation_facts(result.final.by(score)) for score in order}


def summary(result: RankResult) -> dict[str, str]:
    """What else there is to know of a ranking run, for people."""
    return {
        "architectures": f"{len(result.architectures):,}",
        "Kendall's tau of multiply-accumulates alone": shown_correlation(result.tau_of_macs),
        "training steps": f"{result.final.steps:,}",
        **({} if result.findings is None else result.findings.facts),
    }


def _figures(job: RankJob, result: RankResult, records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    truth, scores = zip(*((item.truth, item.scores) for item in result.architectures))
    some = sorted(job.architectures[: method_parts.MOST_ARCHITECTURES], key=job.space.count_macs)
    tau = shown_correlation(result.final.by(result.score).kendall_tau)
    figures = [
        Figure(
            "Ranking",
            f"{result.score.capitalize()} with the supernet's weights against accuracy when trained alone.",
            plots.ranking_chart(truth, scores, result.score, f"{len(truth)} architectures, Kendall's tau {tau}"),
        ),
        *method_parts.own_figures(job.method.figures(some, records)),
        Figure("Training", "Loss of the supernet.", plots.losses_chart(records, {"supernet": "supernet"})),
    ]
    curves = {
        name: [(point.steps, value) for point in result.points if (value := point.numbers()[field]) is not None]
        for name, field in _CURVES.items()
    }
    if all(len(points) > 1 for points in curves.values()):
        chart = curves_chart(curves, "training steps", "rank correlation")
        figures.insert(1, Figure("Correlation over training", "At each point of training.", chart))
    return figures


def _report(
    folder: RunFolder[RankSettings], job: RankJob, result: RankResult, records: Sequence[Mapping[str, Any]]
) -> str:
    splits, settings = job.splits, job.settings
    shape = "x".join(map(str, splits.image_shape))
    facts = {
        "data": f"{folder.card.data_name}, {splits.targets_described} of {shape} images",
        "images": f"{len(splits.train):,} for training, {len(job.evaluation.validation):,} for evaluation",
        "space": job.space.name,
        "method": f"method {settings.method.name}",
        "shots": f"K = {settings.shots}",
        "table": Path(settings.truth or "").name,
        "seed": f"seed {settings.seed}",
    }
    if splits.notes:
        facts["notes on the data"] = "; ".join(splits.notes)
    ranked = correlations(result)
    rows = [(name, *(numbers[name] for numbers in ranked.values())) for name in CORRELATION_TITLES.values()]
    headline = {f"{name} by {result.score}": ranked[f"by {result.score}"][name] for name in _HEADLINE}
    return page.render(
        "rank.html",
        title=f"Ranking of {len(result.architectures)} architectures on {folder.card.data_name}",
        lead="; ".join(facts[name] for name in LEAD),
        banner=method_parts.banner(result.findings),
        tiles=headline | summary(result),
        figures=_figures(job, result, records),
        findings=result.findings,
        correlations=Table(("", *ranked), rows),
        facts=facts,
        settings=flatten(as_table(settings)),
        seconds=seconds_by_stage(result.seconds),
        provenance=method_parts.provenance(folder.card),
    )
