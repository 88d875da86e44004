"""``nas.rank``: train a supernet, and compare how it ranks architectures with a table of their accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot_ext._native import notices
from kshot_ext.nas.api.finished import load_run
from kshot_ext.nas.api.options import Settings, own_of
from kshot_ext.nas.api.runs import RankRun
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.api.start import Resources, Start
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.messages import noting
from kshot_ext.nas.progress import ConsoleProgress, new_console
from kshot_ext.nas.ranking.rank_job import RankJob, RankResult
from kshot_ext.nas.reporting import page
from kshot_ext.nas.reporting.rank_outputs import OUTPUTS, write_ranking
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks, EpochEvent, StageEvent
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import ConsideredNetwork
from kshot_ext.nas.runs.results_file import ResultsFileError
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.training.data_parallel import started_processes

if TYPE_CHECKING:
    from rich.console import Console


def rank(
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
) -> RankRun:
    """Train a supernet and rank architectures of a table with it, as ``kshot-ext rank`` does.

    Args:
        settings: of the run: a :class:`kshot_ext.nas.runs.settings.RankSettings`, a table of these, or the path of a
            TOML file; None for the defaults, which lack ``truth``.
        data, out, resume, on_epoch, on_evaluated, on_stage, progress, workers, ray_address, threads: as of
            `kshot_ext.nas.search`.
        **options: settings by the names of a settings file; ``truth``, the table, must be one if ``settings`` has none.

    Returns:
        The finished run.

    Raises:
        ValueError, RunFolderError, DivergedError, OSError: as `kshot_ext.nas.search`.
    """
    session = Session("rank", None if resume is None else Path(resume), in_program=True)
    start = Start.by_program(
        "rank",
        settings,
        data,
        resume,
        {**options, "out": out},
        Resources(workers, ray_address, threads),
        Callbacks(on_epoch, on_evaluated, on_stage),
    )
    with begun_ranking(session, new_console(quiet=not progress), start) as begun, noting(session.how_to_go_on):
        begun.run()
    run = load_run(begun.folder.path, data=start.source, **own_of(start.options))
    assert isinstance(run, RankRun)
    return run


@dataclass(frozen=True)
class BegunRanking:
    """A ranking that is ready to run: everything that could be found out before has been.

    Args:
        session: which run it is.
        job: the work.
        folder: the run's.
        progress: where it is shown.
        start: what was asked for.
    """

    session: Session
    job: RankJob
    folder: RunFolder[RankSettings]
    progress: ConsoleProgress
    start: Start

    def run(self) -> tuple[RankResult, Path]:
        """Do the work, or what is left of it, and write what there is to keep; gives the result and the report."""
        metrics = MetricsLog(self.folder.path / "metrics.jsonl", self.folder.path / "tensorboard")
        with self.start.resources.suitable_threads(self.job.splits.image_shape):
            result = self.job.run(self.folder, metrics, self.progress, self.start.callbacks)
        try:
            report = write_ranking(self.folder, self.job, result, metrics.records)
        except ResultsFileError as error:
            raise RunFolderError(f"{error}; mend or move that file; {self.session.how_to_go_on()}") from error
        metrics.close()
        notices.log(f"done; report: {report}")
        return result, report


@contextmanager
def begun_ranking(session: Session, console: Console, start: Start) -> Iterator[BegunRanking]:
    """Inside the context a ranking is ready to run; the arguments are those of
    :func:`kshot_ext.nas.api.search.begun_search`.

    Raises:
        ValueError, RunFolderError, MissingExtraError, OSError: if something cannot be used; nothing is written then.
    """
    start.resources.check()
    if (started_processes() or 1) > 1:
        raise ValueError("rank runs in one process: start it without torchrun, or with one process")
    with session, ExitStack() as resources, ConsoleProgress(console) as progress:
        apply_to_all = resources.enter_context(start.resources.evaluators())
        settings = session.settings(RankSettings(), start)
        data_name, splits = load_data(settings, progress, {Part.VALIDATION: settings.held_out}, start.source)
        job = RankJob(settings, splits, apply_to_all)
        if session.resume is None:
            job.begin_from_warm_up()  # so that what is wrong with it is told before there is a folder
        page.rehearse()
        folder = session.open_folder(settings, data_name, splits, OUTPUTS)
        yield BegunRanking(session, job, folder, progress, start)
