"""What ``kshot-ext search`` does with its options: gather settings, run the job, tell the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.commands.evaluators import evaluators
from kshot_ext.nas.commands.frame import (
    FOR_PEOPLE,
    Output,
    Run,
    exit_status,
    print_facts,
    suitable_threads,
    tell,
    tell_findings,
    users_errors,
)
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.reporting.search_outputs import OUTPUTS, rehearse_outputs, write_outputs
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings, own_classes, with_table
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.spaces.counting import COST_TITLES
from kshot_ext.nas.tables import as_table
from kshot_ext.nas.training.data_parallel import DataParallel

_LIBRARIES = ("jinja2", "safetensors", "scipy", "tensorboard")


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
    run = Run("search", resume)

    def body(console: Console) -> None:
        with users_errors():
            processes = DataParallel.from_environment(options.get("device") or "cpu")
        with (
            processes,
            ExitStack() as resources,
            ConsoleProgress(console if processes.leads else Console(quiet=True)) as progress,
        ):
            resources.callback(run.close)
            run.follows = not processes.leads
            if run.follows:
                _follow(processes, progress, run, threads)
                return
            with users_errors(*_LIBRARIES):
                apply_to_all = resources.enter_context(evaluators(workers, ray_address))
                settings = run.settings(RunSettings(), config, options)
                processes.from_leader(json.dumps(as_table(settings)))
                data_name, splits = load_data(settings, progress)
                job = SearchJob(settings, splits, processes, apply_to_all)
                rehearse_outputs(job)
                folder = run.open_folder(settings, data_name, splits, OUTPUTS)
            processes.from_leader(json.dumps(str(folder.path)))
            tell(console, f"run folder: {folder.path}")
            metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
            with suitable_threads(splits.image_shape, threads):
                result, networks = job.run(folder, metrics, progress)
            report = write_outputs(folder, data_name, job, result, networks, metrics.records)
            metrics.close()
        _print_result(console, result, report)
        output.result({"folder": str(folder.path), "report": str(report), **result.to_json()})

    return exit_status(body, run.how_to_go_on, output)


def _follow(processes: DataParallel, progress: ConsoleProgress, run: Run, threads: int | None) -> None:
    """Do what a process has to do that ``torchrun`` started beside the one that does the run."""
    with users_errors():
        table = json.loads(processes.from_leader(""))
        allow_own_method(table["method"]["name"])
        settings = with_table(RunSettings(), table, "settings of the leading process")
        _, splits = load_data(settings, progress)
        job = SearchJob(settings, splits, processes)
    run.path, run.own_classes = Path(json.loads(processes.from_leader(""))), own_classes(settings)
    with suitable_threads(splits.image_shape, threads):
        job.follow()


def _print_result(console: Console, result: RunResult, report: Path) -> None:
    table = Table(title="trained from scratch")
    table.add_column("network")
    costs = ("macs", "parameters", *(["bit_operations"] if result.winner.bit_operations else []))
    for column in ("test accuracy", *(COST_TITLES[cost] for cost in costs)):
        table.add_column(column, justify="right")
    for network in result.compared:
        numbers = (f"{getattr(network, cost):,}" for cost in costs)
        table.add_row(network.title, f"{network.test_accuracy:.2%}", *numbers)
    console.print(table)
    if result.ensemble_accuracy is not None:
        tell(console, f"test accuracy of the ensemble of all that were selected: {result.ensemble_accuracy:.2%}")
    if result.findings is not None:
        print_facts(console, result.findings.heading.lower(), result.findings.facts)
    tell_findings(console, result.findings)
    tell(console, f"report: {report}")
