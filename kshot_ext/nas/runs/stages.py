"""The stages of a run that train, and how any stage is done with its state on disk."""

from __future__ import annotations

import time
from collections.abc import Callable

from kshot_ext.nas.messages import notice, one_line
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks, EpochEvent, StageEvent
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.run_folder import Checkpoint, RunFolder, RunFolderError
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.divergence import DivergedError
from kshot_ext.nas.training.epoch_trainer import OnStep
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.retrain import NetworkTrainer


class SupernetStage(Stage):
    """A method's training; a step is an epoch.

    Args:
        loop: what trains.
        until: epoch to stop at for now; default: the last.
    """

    unit = "epoch"

    def __init__(self, loop: TrainingLoop, until: int | None = None) -> None:
        super().__init__("supernet", "train supernet", loop, loop.settings.epochs if until is None else until)

    @property
    def done(self) -> int:
        return self.work.epoch

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        report = self.work.train_epoch(_epoch_position(self.done, on_move))
        values = {"loss": report.loss, "accuracy": report.accuracy, "learning_rate": report.learning_rate}
        return values | report.numbers | {f"share_{name}": share for name, share in report.operation_shares.items()}


class RetrainStage(Stage):
    """Training of one network from scratch; a step is an epoch."""

    unit = "epoch"

    def __init__(self, title: str, trainer: NetworkTrainer) -> None:
        super().__init__(f"retrain-{title}", f"retrain {title}", trainer, trainer.settings.epochs)

    @property
    def done(self) -> int:
        return self.work.epoch

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        report = self.work.train_epoch(_epoch_position(self.done, on_move))
        return {"loss": report.loss, "accuracy": report.accuracy, "learning_rate": report.learning_rate}


def _epoch_position(epoch: int, on_move: Callable[[float], None]) -> OnStep:
    return lambda report: on_move(epoch + report.step / report.num_steps)


def run_stage(
    stage: Stage,
    folder: RunFolder,
    metrics: MetricsLog,
    progress: ConsoleProgress,
    callbacks: Callbacks = SILENT,
) -> float:
    """Bring a stage to its end, from where an earlier process left it; a checkpoint follows every step.

    Args:
        stage: what to do.
        folder: where checkpoints are and go.
        metrics: where each step's numbers go.
        progress: where they are shown.
        callbacks: told of each step once it is saved.

    Returns:
        Seconds that the stage took, in all processes together.

    Raises:
        DivergedError: if training has diverged: of that step nothing is recorded or saved.
        RunFolderError: if its checkpoint cannot be used.
        OSError: if a file cannot be written; the checkpoint of the step before is untouched.
    """
    seconds = _go_back_to_checkpoint(stage, folder, metrics)
    progress.start(stage.title, stage.total, stage.done)

    def tell(*, ended: bool) -> None:
        callbacks.on_stage(StageEvent(stage.name, stage.title, stage.done, stage.total, seconds, ended))

    tell(ended=False)
    while stage.done < stage.total:
        started = time.perf_counter()
        try:
            values = stage.step(progress.move)
        except DivergedError as error:
            raise DivergedError(f"{stage.title}: {error}. {_what_is_kept(stage, folder)}") from error
        seconds += time.perf_counter() - started
        metrics.record(stage.name, stage.done, values)
        records = metrics.of_stage(stage.name)
        folder.save_checkpoint(stage.name, Checkpoint(stage.work.state_dict(), seconds, records))
        progress.finish_step(stage.done, {name: values[name] for name in stage.headline})
        callbacks.on_epoch(EpochEvent(stage.name, stage.unit, stage.done, stage.total, values))
    tell(ended=True)
    return seconds


def _what_is_kept(stage: Stage, folder: RunFolder) -> str:
    kept = f"its state after {stage.unit} {stage.done} of {stage.total}" if stage.done else "nothing of this stage"
    return f"{folder.path} keeps {kept}; a run goes on with the settings it began with, so mend them in a new run"


def _go_back_to_checkpoint(stage: Stage, folder: RunFolder, metrics: MetricsLog) -> float:
    """Bring a stage and its records to where its checkpoint has them; returns the seconds that it took so far."""
    path = folder.checkpoint_path(stage.name)
    checkpoint = folder.load_checkpoint(stage.name)
    if checkpoint is None:
        if len(metrics.of_stage(stage.name)) > 1:  # one may be there: a step is recorded before it is saved
            notice(f"{path}: the checkpoint is gone; this stage begins anew")
        metrics.begin_stage(stage.name, stage.done)
        return 0.0
    try:
        stage.work.load_state_dict(checkpoint.state)
        if type(stage.done) is not int or stage.done < 0:
            raise ValueError(f"expected a number of steps, got {stage.done!r:.40}")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path}: expected the state of this stage as this version keeps it ({type(error).__name__}: "
            f"{one_line(error)}); go on with the version that began the run, or delete the file to do the stage again"
        ) from error
    metrics.begin_stage(stage.name, stage.done, checkpoint.records)
    return checkpoint.seconds
