"""What ``kshot-ext search`` says of a search; `kshot_ext.nas.api.search` does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.api.search import begun_search
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
from kshot_ext.nas.reporting.report import comparison_sentence, costs_of_rivals
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.spaces.counting import COST_TITLES


def search_command(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    resources: Resources = WHATEVER_SUITS,
    output: Output = FOR_PEOPLE,
) -> int:
    """Run or resume the main job, and print its result; under ``torchrun`` the supernet is trained by all processes.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.
        resources: what it may use.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    session = Session("search", resume)
    start = Start(options, config, resources)

    def body(console: Console) -> None:
        with begun(session, console, begun_search(session, console, start)) as ready:
            found = ready.run()
        if found is not None:
            _print_result(console, found.result, found.report)
            places = {"folder": str(found.folder.path), "report": str(found.report)}
            output.result({**places, **found.result.to_json()})

    return exit_status(body, session.how_to_go_on, output)


def _print_result(console: Console, result: RunResult, report: Path) -> None:
    table = Table(title="trained from scratch")
    table.add_column("network")
    costs = ("macs", "parameters", *(["bit_operations"] if result.winner.bit_operations else []))
    task = result.task
    for column in (f"test {task.metric_name}", *(COST_TITLES[cost] for cost in costs)):
        table.add_column(column, justify="right")
    for network in result.compared:
        numbers = (f"{getattr(network, cost):,}" for cost in costs)
        table.add_row(network.title, task.shown(network.test_accuracy), *numbers)
    console.print(table)
    if result.comparison is not None:
        tell(console, comparison_sentence(result.comparison, result.test_images, task, costs_of_rivals(result)))
    if result.ensemble_accuracy is not None:
        shown = task.shown(result.ensemble_accuracy)
        tell(console, f"test {task.metric_name} of the ensemble of all that were selected: {shown}")
    if result.findings is not None:
        print_facts(console, result.findings.heading.lower(), result.findings.facts)
    tell_findings(console, result.findings)
    tell(console, f"report: {report}")
