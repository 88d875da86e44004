"""``run.retrain``: train any architecture of a search from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot_ext.nas.api.start import Resources
from kshot_ext.nas.files import is_there, write_text
from kshot_ext.nas.messages import file_name, noting
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.progress import ConsoleProgress, new_console
from kshot_ext.nas.reporting.search_outputs import write_network
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks, EpochEvent, StageEvent
from kshot_ext.nas.runs.gather_settings import check_same, with_table
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import RESULTS_FORMAT
from kshot_ext.nas.runs.retraining import run_retraining
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import RETRAINED, RunFolder, RunFolderError
from kshot_ext.nas.runs.run_log import LOG, RunLog
from kshot_ext.nas.runs.settings import RetrainRunSettings
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import SettingsError, as_table

if TYPE_CHECKING:
    from kshot_ext.nas.api.search_run import SearchRun

_UNKNOWN = Scores(math.nan, math.inf)
_OUTPUTS = ("results.json", "architecture.json", "model.pt", "model.safetensors", "metrics.jsonl")


def retrain(
    run: SearchRun,
    which: int | str | Architecture = "winner",
    *,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_epoch: Callable[[EpochEvent], object] = SILENT.on_epoch,
    on_stage: Callable[[StageEvent], object] = SILENT.on_stage,
    progress: bool | ConsoleProgress = True,
    threads: int | None = None,
) -> Path:
    """Train an architecture of a search from scratch as the search trains its winner, in a folder of its own.

    A training that is there already, of the same settings, is gone on with; one that has ended is not done again.
    Nothing of the search is changed.

    Args:
        run: the search, whose last state is read.
        which: the architecture, see `kshot_ext.nas.api.search_run.SearchRun.architecture`.
        seed: decides everything random in the training.
        out: folder of the training; None for one inside the run's, ``retrained/``, then the architecture's key.
        settings: of the table ``[retrain]`` that are to differ from the search's, such as ``{"epochs": 100}``.
        on_epoch, on_stage: as of `nas.search`.
        progress: whether it is shown, or where.
        threads: of this process; None for what suits the images.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such architecture, or a setting is unusable.
        RunFolderError: if the folder is another run's, or the images are not those of the search.
        DivergedError: if training diverges; the last good state is kept.
        OSError: if a file cannot be written.
    """
    resources = Resources(threads=threads)
    resources.check()
    callbacks = Callbacks(on_epoch=on_epoch, on_stage=on_stage)
    architecture = run.architecture(which)
    wanted = _settings(run, architecture, seed, settings)
    shown = progress if isinstance(progress, ConsoleProgress) else ConsoleProgress(new_console(quiet=not progress))
    job = run.job
    job.method.result_space.validate(architecture)
    known = {network.architecture: network for network in run.history}
    scores = _UNKNOWN
    if architecture in known:
        scores = Scores(known[architecture].supernet_accuracy, known[architecture].supernet_loss)
    card = RunCard.new("retrain", wanted, run.card.data_name, job.splits)
    name = file_name(architecture.short()) + (f"-seed-{seed}" if seed else "")
    place = run.path / RETRAINED / name if out is None else Path(out)
    folder = _folder(place, wanted, card, exactly=out is not None)
    with closing(folder), RunLog() as log, shown, resources.suitable_threads(job.splits.image_shape):
        folder.check_outputs([*_OUTPUTS, LOG])
        log.write_to(folder.path)
        metrics = MetricsLog(folder.path / "metrics.jsonl", folder.path / "tensorboard")
        with noting(lambda: f"what was saved before is safe in {folder.path}; the same call goes on with it"):
            described, network, seconds = run_retraining(job, wanted, scores, folder, metrics, shown, callbacks)
        metrics.close()
        write_network(folder.path, run.card.data_name, job, described, network)
        results = {"format": RESULTS_FORMAT, "run": folder.card.run, "winner": described.to_json(), "seconds": seconds}
        write_text(folder.path / "results.json", strict_json(results, indent=2, ensure_ascii=False) + "\n")
    return folder.path


def _settings(
    run: SearchRun, architecture: Architecture, seed: int, changes: Mapping[str, Any] | None
) -> RetrainRunSettings:
    """The settings of the training."""
    table = {**as_table(run.settings), "architecture": architecture.to_json(), "training_seed": seed}
    wanted = with_table(RetrainRunSettings(), table, str(run.path))
    wanted = replace(wanted, out=None, retrain=replace(wanted.retrain, seeds=1))
    return wanted if not changes else with_table(wanted, {"retrain": dict(changes)}, "settings")


def _folder(
    place: Path, settings: RetrainRunSettings, card: RunCard, *, exactly: bool
) -> RunFolder[RetrainRunSettings]:
    """The folder of this training: the one that is there, or a new one; with ``-2``, ... added where another's is.

    Args:
        place: where it is looked for first.
        settings, card: of the training.
        exactly: whether it must be there.
    """
    for number in count(1):
        path = place if number == 1 else place.with_name(f"{place.name}-{number}")
        if not is_there(path):
            return RunFolder.create(path, settings, card)
        folder: RunFolder[RetrainRunSettings] = RunFolder(path, "retrain")
        try:
            check_same(folder.settings, settings, str(path))
        except SettingsError as error:
            folder.close()
            if exactly:
                raise RunFolderError(f"{error}; choose another folder") from error
            continue
        if folder.card.inputs != card.inputs:
            folder.close()
            raise RunFolderError(f"{path}: its images, or its own space, are not those of the search; move it away")
        return folder
    raise AssertionError
