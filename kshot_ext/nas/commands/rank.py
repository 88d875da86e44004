"""What ``kshot-ext rank`` does with its options: gather settings, run the job, tell the user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.commands.evaluators import evaluators
from kshot_ext.nas.commands.frame import (
    FOR_PEOPLE,
    CommandError,
    Output,
    Run,
    exit_status,
    print_facts,
    suitable_threads,
    tell,
    tell_findings,
    users_errors,
)
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.ranking.rank_job import RankJob, RankResult, ranking_entry
from kshot_ext.nas.reporting import page
from kshot_ext.nas.reporting.rank_outputs import OUTPUTS, correlations, summary, write_ranking
from kshot_ext.nas.reporting.report import CORRELATION_TITLES
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results_file import ResultsFileError
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.training.data_parallel import started_processes

_LIBRARIES = ("jinja2", "safetensors", "scipy", "tensorboard")


def rank_command(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    workers: int | None = None,
    ray_address: str | None = None,
    threads: int | None = None,
    output: Output = FOR_PEOPLE,
) -> int:
    """Run or resume a ranking, and print its result.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.
        workers: processes of Ray that evaluate architectures; None for this process without Ray.
        ray_address: of a running cluster that has them; None for this machine.
        threads: of this process; None for what suits the images.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    run = Run("rank", resume)

    def body(console: Console) -> None:
        if (started_processes() or 1) > 1:
            raise CommandError("rank runs in one process: start it without torchrun, or with one process")
        with closing(run), ExitStack() as resources, ConsoleProgress(console) as progress:
            with users_errors(*_LIBRARIES):
                apply_to_all = resources.enter_context(evaluators(workers, ray_address))
                settings = run.settings(RankSettings(), config, options)
                data_name, splits = load_data(settings, progress, {Part.VALIDATION: settings.held_out})
                job = RankJob(settings, splits, apply_to_all)
                if resume is None:
                    job.begin_from_warm_up()  # so that what is wrong with it is told before there is a folder
                page.rehearse()
                folder = run.open_folder(settings, data_name, splits, OUTPUTS)
            tell(console, f"run folder: {folder.path}")
            metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
            with suitable_threads(splits.image_shape, threads):
                result = job.run(folder, metrics, progress)
            try:
                report = write_ranking(folder, job, result, metrics.records)
            except ResultsFileError as error:
                raise CommandError(f"{error}; mend or move that file; {run.how_to_go_on()}") from error
            metrics.close()
        _print_correlations(
            console, f"ranking by {settings.method.name}, K = {settings.shots}, seed {settings.seed}", result
        )
        print_facts(console, "run", summary(result))
        tell_findings(console, result.findings)
        tell(console, f"report: {report}")
        places = {"folder": str(folder.path), "report": str(report)}
        output.result({**places, **ranking_entry(folder.card.run, job, result)})

    return exit_status(body, run.how_to_go_on, output)


def _print_correlations(console: Console, title: str, result: RankResult) -> None:
    by_score = correlations(result)
    table = Table(title=title)
    table.add_column("")
    for score in by_score:
        table.add_column(score, justify="right")
    for name in CORRELATION_TITLES.values():
        table.add_row(name, *(numbers[name] for numbers in by_score.values()))
    console.print(table)
