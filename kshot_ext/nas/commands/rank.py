"""What ``kshot-ext rank`` says of a ranking; `kshot_ext.nas.api.rank` does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.api.rank import begun_ranking
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.api.start import WHATEVER_SUITS, Resources, Start
from kshot_ext.nas.commands.frame import (
    FOR_PEOPLE,
    Output,
    begun,
    exit_status,
    print_facts,
    tell,
    tell_findings,
)
from kshot_ext.nas.ranking.rank_job import RankResult, ranking_entry
from kshot_ext.nas.reporting.rank_outputs import correlations, summary
from kshot_ext.nas.reporting.report import CORRELATION_TITLES


def rank_command(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    resources: Resources = WHATEVER_SUITS,
    output: Output = FOR_PEOPLE,
) -> int:
    """Run or resume a ranking, and print its result.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.
        resources: what it may use.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    session = Session("rank", resume)
    start = Start(options, config, resources)

    def body(console: Console) -> None:
        with begun(session, console, begun_ranking(session, console, start)) as ready:
            result, report = ready.run()
        settings = ready.job.settings
        _print_correlations(
            console, f"ranking by {settings.method.name}, K = {settings.shots}, seed {settings.seed}", result
        )
        print_facts(console, "run", summary(result))
        tell_findings(console, result.findings)
        tell(console, f"report: {report}")
        places = {"folder": str(ready.folder.path), "report": str(report)}
        output.result({**places, **ranking_entry(ready.folder.card.run, ready.job, result)})

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
