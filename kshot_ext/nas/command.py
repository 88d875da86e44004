"""What ``kshot-ext search`` does with its options: gather settings, run the job, tell the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kshot_ext.nas.command_frame import Run, exit_status, suitable_threads, tell, users_errors
from kshot_ext.nas.metrics import MetricsLog
from kshot_ext.nas.outputs import write_outputs
from kshot_ext.nas.pipeline import SearchJob
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.results import RunResult
from kshot_ext.nas.settings import RunSettings
from kshot_ext.nas.supernet_job import load_data

_LIBRARIES = ("matplotlib", "pymoo", "safetensors", "scipy", "tensorboard")


def search_command(options: Mapping[str, Any], config: Path | None, resume: Path | None) -> int:
    """Run or resume the main job, and print its result.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    run = Run("search", resume)

    def body(console: Console) -> None:
        with ConsoleProgress(console) as progress:
            with users_errors(*_LIBRARIES):
                settings = run.settings(RunSettings(), config, options)
                data_name, splits = load_data(settings, progress)
                job = SearchJob(settings, splits)
                folder = run.open_folder(settings, data_name, splits)
            tell(console, f"run folder: {folder.path}")
            metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
            with suitable_threads(splits.image_shape):
                result, network = job.run(folder, metrics, progress)
        report = write_outputs(folder.path, data_name, job, result, network, metrics.records)
        metrics.close()
        _print_result(console, result, report)

    return exit_status(body, run.how_to_go_on)


def _print_result(console: Console, result: RunResult, report: Path) -> None:
    table = Table(title="trained from scratch")
    table.add_column("network")
    for column in ("test accuracy", "multiply-accumulates", "parameters"):
        table.add_column(column, justify="right")
    for network in result.networks:
        numbers = (f"{network.test_accuracy:.2%}", f"{network.macs:,}", f"{network.parameters:,}")
        table.add_row(network.title, *numbers)
    console.print(table)
    tell(console, f"report: {report}")
