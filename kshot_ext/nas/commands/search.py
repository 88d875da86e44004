"""What ``kshot-ext search`` says of a search; `kshot_ext.nas.api.search` does it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.api.search import begun_search
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
from kshot_ext.nas.reporting.report import comparison_sentence, costs_of_rivals
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.spaces.counting import COST_TITLES


def search_command(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    workers: int | None = None,
    ray_address: str | None = None,
    threads: int | None = None,
    output: Output = FOR_PEOPLE,
) -> int:
    """Run or resume the main job, and print its result; under ``torchrun`` the supernet is trained by all processes.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.
        workers: processes of Ray that evaluate populations; None for this process without Ray.
        ray_address: of a running cluster that has them; None for this machine.
        threads: of this process; None for what suits the images.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    session = Session("search", resume)

    def body(console: Console) -> None:
        with ExitStack() as resources:
            with users_errors():
                begun = resources.enter_context(
                    begun_search(
                        session,
                        console,
                        options,
                        config,
                        workers=workers,
                        ray_address=ray_address,
                        threads=threads,
                    )
                )
            if begun.folder is not None:
                tell(console, f"run folder: {begun.folder.path}")
            with own_class_errors(session):
                found = begun.run()
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
