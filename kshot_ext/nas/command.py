"""What ``kshot-ext search`` does with its options: gather settings, run the job, tell the user."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.data_parallel import DataParallel
from kshot_ext.nas.extras import MissingExtraError, require
from kshot_ext.nas.metrics import MetricsLog
from kshot_ext.nas.outputs import write_outputs
from kshot_ext.nas.pipeline import SearchJob, load_data
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.ray_map import RayMap
from kshot_ext.nas.results import RunResult
from kshot_ext.nas.run_folder import RunFolder, RunFolderError
from kshot_ext.nas.settings import RunSettings, check_same, gather_settings
from kshot_ext.nas.spaces.own import is_own
from kshot_ext.nas.tables import as_table, override

EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130

_PIXELS_FOR_ONE_THREAD = 16 * 16
_LIBRARIES = ("matplotlib", "pymoo", "tensorboard")


class CommandError(Exception):
    """Something that the user can mend; the message says what."""


def search_command(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    workers: int | None = None,
    ray_address: str | None = None,
) -> int:
    """Run or resume the main job, and print its result; under ``torchrun`` the supernet is trained by all processes.

    Args:
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder to go on with, or None to begin a new one.
        workers: processes of Ray that evaluate populations; None for this process without Ray.
        ray_address: of a running cluster that has them; None for this machine.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """
    console, errors = Console(), Console(stderr=True)
    folder: RunFolder | None = None
    try:
        with (
            _termination_as_interrupt(),
            ExitStack() as resources,
            DataParallel.from_environment() as processes,
            ConsoleProgress(console if processes.leads else Console(quiet=True)) as progress,
        ):
            if not processes.leads:
                _follow(processes, progress)
                return EXIT_DONE
            apply_to_all = resources.enter_context(_evaluators(workers, ray_address))
            folder, data_name, job = _prepare(options, config, resume, progress, processes, apply_to_all)
            console.print(f"run folder: {folder.path}", soft_wrap=True, highlight=False, markup=False)
            metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
            with _suitable_threads(job.splits.image_shape):
                result, network = job.run(folder, metrics, progress)
        report = write_outputs(folder.path, data_name, job, result, network, metrics.records)
        metrics.close()
    except KeyboardInterrupt:
        errors.print(f"\nstopped; {_how_to_go_on(folder)}", soft_wrap=True, highlight=False, markup=False)
        return EXIT_INTERRUPTED
    except LostProcessError as error:
        errors.print(f"error: {error}; {_how_to_go_on(folder)}", soft_wrap=True, highlight=False, markup=False)
        return EXIT_ERROR
    except (CommandError, RunFolderError, OSError) as error:
        errors.print(f"error: {error}", soft_wrap=True, highlight=False, markup=False)
        return EXIT_ERROR
    _print_result(console, result, report)
    return EXIT_DONE


@contextmanager
def _suitable_threads(image_shape: tuple[int, int, int]) -> Iterator[None]:
    """One thread for images so small that threads would spend their time waiting for each other."""
    before = torch.get_num_threads()
    if image_shape[1] * image_shape[2] <= _PIXELS_FOR_ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluators(workers: int | None, ray_address: str | None) -> Iterator[Callable[..., Iterable[float]]]:
    """What evaluates a population: `map`, or the workers of Ray."""
    if workers is None and ray_address is not None:
        raise CommandError("ray_address: expected workers too, their number on the cluster")
    if workers is None:
        yield map
        return
    try:
        ray_map = RayMap(workers, ray_address)
    except (ValueError, MissingExtraError) as error:
        raise CommandError(str(error)) from error
    with ray_map:
        yield ray_map


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end a run as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _follow(processes: DataParallel, progress: ConsoleProgress) -> None:
    """Do what a process has to do that ``torchrun`` started beside the one that does the run."""
    settings = override(RunSettings(), json.loads(processes.from_leader("")), "settings of the leading process")
    _, splits = load_data(settings, progress)
    job = SearchJob(settings, splits, processes)
    with _suitable_threads(splits.image_shape):
        job.follow()


def _prepare(
    options: Mapping[str, Any],
    config: Path | None,
    resume: Path | None,
    progress: ConsoleProgress,
    processes: DataParallel,
    apply_to_all: Callable[..., Iterable[float]],
) -> tuple[RunFolder, str, SearchJob]:
    """Check and load everything; a new run folder is made last, so that an error leaves nothing behind."""
    try:
        for library in _LIBRARIES:
            require(library)
        folder = RunFolder(resume) if resume is not None else None
        base = RunSettings() if folder is None else folder.settings
        settings = gather_settings(base, config, options)
        if folder is not None:
            check_same(base, settings, str(folder.path))
        processes.from_leader(json.dumps(as_table(settings)))
        data_name, splits = load_data(settings, progress)
        job = SearchJob(settings, splits, processes, apply_to_all)
        return folder or _new_folder(settings, data_name), data_name, job
    except (ValueError, MissingExtraError) as error:
        raise CommandError(str(error)) from error


def _new_folder(settings: RunSettings, data_name: str) -> RunFolder:
    default = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{data_name}-{settings.space.rpartition(':')[-1]}"
    return RunFolder.create(Path(settings.out or default), replace(settings, out=None))


def _how_to_go_on(folder: RunFolder | None) -> str:
    if folder is None:
        return "nothing was written"
    command = f"kshot-ext search --resume {shlex.quote(str(folder.path))}"
    if is_own(folder.settings.space):
        command += f" --space {shlex.quote(folder.settings.space)}"
    return f"go on with: {command}"


def _print_result(console: Console, result: RunResult, report: Path) -> None:
    table = Table(title="trained from scratch")
    table.add_column("network")
    for column in ("test accuracy", "multiply-accumulates", "parameters"):
        table.add_column(column, justify="right")
    for network in result.networks:
        numbers = (f"{network.test_accuracy:.2%}", f"{network.macs:,}", f"{network.parameters:,}")
        table.add_row(network.title, *numbers)
    console.print(table)
    console.print(f"report: {report}", soft_wrap=True, highlight=False, markup=False)
