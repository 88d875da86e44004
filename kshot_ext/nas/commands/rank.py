"""What ``kshot-ext rank`` says of a ranking; `kshot_ext.nas.api.rank` does it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.api.rank import begun_ranking
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.commands.frame import (
    FOR_PEOPLE,
    Output,
    exit_status,
    own_class_errors,
    print_facts,
    tell,
    tell_findings,
    users_errors,
)
from kshot_ext.nas.ranking.rank_job import RankResult, ranking_entry
from kshot_ext.nas.reporting.rank_outputs import correlations, summary
from kshot_ext.nas.reporting.report import CORRELATION_TITLES


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
    session = Session("rank", resume)

    def body(console: Console) -> None:
        with ExitStack() as resources:
            with users_errors():
                begun = resources.enter_context(
                    begun_ranking(
                        session,
                        console,
                        options,
                        config,
                        workers=workers,
                        ray_address=ray_address,
                        threads=threads,
                    )
                )
            tell(console, f"run folder: {begun.folder.path}")
            with own_class_errors(session):
                result, report = begun.run()
        settings = begun.job.settings
        _print_correlations(
            console, f"ranking by {settings.method.name}, K = {settings.shots}, seed {settings.seed}", result
        )
        print_facts(console, "run", summary(result))
        tell_findings(console, result.findings)
        tell(console, f"report: {report}")
        places = {"folder": str(begun.folder.path), "report": str(report)}
        output.result({**places, **ranking_entry(begun.folder.card.run, begun.job, result)})

    return exit_status(body, session.how_to_go_on, output)


def _print_correlations(console: Console, title: str, result: RankResult) -> None:
    by_score = correlations(result)
    table = Table(title=title)
    table.add_column("")
    for score in by_score:
        table.add_column(score, justify="right")
    for name in CORRELATION_TITLES.values():
        table.add_row(name, *(numbers[name] for numbers in by_score.values()))
    console.print(table)
