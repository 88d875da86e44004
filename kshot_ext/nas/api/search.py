"""``nas.search``: train a supernet, search it, train what is found and random rivals from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot_ext._native import notices
from kshot_ext.nas.api.finished import load_run
from kshot_ext.nas.api.options import Settings, own_of
from kshot_ext.nas.api.search_run import SearchRun
from kshot_ext.nas.api.session import Session, to_give_again
from kshot_ext.nas.api.start import Resources, Start
from kshot_ext.nas.messages import noting
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.progress import ConsoleProgress, new_console
from kshot_ext.nas.reporting.search_outputs import OUTPUTS, rehearse_outputs, write_outputs
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks, EpochEvent, StageEvent
from kshot_ext.nas.runs.gather_settings import with_table
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import ConsideredNetwork, RunResult
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.tables import as_table
from kshot_ext.nas.task import allow_own_task
from kshot_ext.nas.training.data_parallel import DataParallel

if TYPE_CHECKING:
    from rich.console import Console


def search(
    settings: Settings | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    on_epoch: Callable[[EpochEvent], object] = SILENT.on_epoch,
    on_evaluated: Callable[[ConsideredNetwork], object] = SILENT.on_evaluated,
    on_stage: Callable[[StageEvent], object] = SILENT.on_stage,
    progress: bool = True,
    workers: int | None = None,
    ray_address: str | None = None,
    threads: int | None = None,
    **options: Any,
) -> SearchRun | None:
    """Search a space on images, as ``kshot-ext search`` does, and train the winner and random rivals from scratch.

    Args:
        settings: a :class:`kshot_ext.nas.runs.settings.RunSettings`, a table, or the path of a TOML file.
        data: images: a path, or an object that :func:`kshot_ext.nas.datasets.open_source` takes; None for those of the
            settings, or scikit-learn's digits.
        out: run folder to create, which must not exist; None for ``runs/``, then date, time, data and space.
        resume: run folder to go on with. What was given as an object is given again.
        on_epoch: called after each epoch of a training and each generation of a search, once it is saved.
        on_evaluated: called after each architecture that is evaluated with the supernet's weights.
        on_stage: called at the beginning and the end of each stage.
        progress: whether it is shown.
        workers, ray_address: evaluate architectures by so many processes of Ray.
        threads: of this process; None for what suits the images.
        **options: settings by the names of a settings file, which win over ``settings``: ``shots=8``,
            ``training={"epochs": 40}``, or an object for a table. ``space``, ``task`` and ``method`` may be names,
            classes, or, of a space or a task, an object; ``widths`` and ``bits`` may be lists.

    Returns:
        The finished run; None in a process that ``torchrun`` started beside the first.

    Raises:
        ValueError: if settings, images and space are unusable, or do not fit together; nothing is written then.
        TypeError: if a call-back is no function; nothing is written then.
        RunFolderError: if the run folder cannot be used.
        DivergedError: if training diverges; the last good state is kept.
        OSError: if a file cannot be written.
    """
    session = Session("search", None if resume is None else Path(resume), in_program=True)
    start = Start.by_program(
        "search",
        settings,
        data,
        resume,
        {**options, "out": out},
        Resources(workers, ray_address, threads),
        Callbacks(on_epoch, on_evaluated, on_stage),
    )
    with begun_search(session, new_console(quiet=not progress), start) as begun, noting(session.how_to_go_on):
        found = begun.run()
    if found is None:
        return None
    run = load_run(found.folder.path, data=start.source, **own_of(start.options))
    assert isinstance(run, SearchRun)
    return run


@dataclass(frozen=True)
class Found:
    """What a search leaves.

    Args:
        folder: the run's, which this process holds no more.
        result: what it found.
        report: the page about it.
    """

    folder: RunFolder[RunSettings]
    result: RunResult
    report: Path


@dataclass(frozen=True)
class BegunSearch:
    """A search that is ready to run: everything that could be found out before has been.

    Args:
        job: the work.
        folder: the run's; None in a process that helps another one.
        data_name: what the images are called.
        progress: where it is shown.
        start: what was asked for.
    """

    job: SearchJob
    folder: RunFolder[RunSettings] | None
    data_name: str
    progress: ConsoleProgress
    start: Start

    def run(self) -> Found | None:
        """Do the work, or what is left of it, and write what there is to keep; None if this process helped another."""
        with self.start.resources.suitable_threads(self.job.splits.image_shape):
            if self.folder is None:
                self.job.follow()
                return None
            metrics = MetricsLog(self.folder.path / "metrics.jsonl", self.folder.path / "tensorboard")
            result, networks = self.job.run(self.folder, metrics, self.progress, self.start.callbacks)
        report = write_outputs(self.folder, self.data_name, self.job, result, networks, metrics.records)
        metrics.close()
        notices.log(f"done; report: {report}")
        return Found(self.folder, result, report)


@contextmanager
def begun_search(session: Session, console: Console, start: Start) -> Iterator[BegunSearch]:
    """Inside the context a search is ready to run; under ``torchrun`` all processes train the supernet.

    Args:
        session: which run it is.
        console: where its progress is shown, in the first process.
        start: what is asked for.

    Raises:
        ValueError, RunFolderError, MissingExtraError, OSError: if something cannot be used; nothing is written then.
    """
    start.resources.check()
    processes = DataParallel.from_environment(start.options.get("device") or "cpu")
    with (
        processes,
        ExitStack() as resources,
        session,
        ConsoleProgress(console if processes.leads else new_console(quiet=True)) as progress,
    ):
        session.follows = not processes.leads
        if session.follows:
            job = _followed(processes, progress, session, start)
            yield BegunSearch(job, None, "", progress, start)
            return
        apply_to_all = resources.enter_context(start.resources.evaluators())
        settings = session.settings(RunSettings(), start)
        processes.from_leader(json.dumps(as_table(settings)))
        data_name, splits = load_data(settings, progress, source=start.source)
        job = SearchJob(settings, splits, processes, apply_to_all)
        rehearse_outputs(job)
        folder = session.open_folder(settings, data_name, splits, OUTPUTS)
        processes.from_leader(json.dumps(str(folder.path)))
        yield BegunSearch(job, folder, data_name, progress, start)


def _followed(processes: DataParallel, progress: ConsoleProgress, session: Session, start: Start) -> SearchJob:
    """The job of the leading process, to help with."""
    table = json.loads(processes.from_leader(""))
    allow_own_method(table["method"]["name"])
    allow_own_task(table.get("task"))
    settings = with_table(RunSettings(), table, "settings of the leading process")
    _, splits = load_data(settings, progress, source=start.source)
    job = SearchJob(settings, splits, processes)
    session.path, session.own_classes = Path(json.loads(processes.from_leader(""))), to_give_again(settings)
    return job
