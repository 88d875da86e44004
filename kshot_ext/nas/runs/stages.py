"""The stages of a run: pieces of work that advance step by step and can be stopped after any step."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any

from kshot_ext.nas.messages import notice, one_line
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.run_folder import Checkpoint, RunFolder, RunFolderError
from kshot_ext.nas.search.archive import Archive
from kshot_ext.nas.search.generations import Generations, SearchSettings
from kshot_ext.nas.training.divergence import DivergedError
from kshot_ext.nas.training.epoch_trainer import OnStep
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.retrain import NetworkTrainer


class Stage(ABC):
    """Work of ``total`` steps.

    Args:
        name: identifies it in the run folder.
        title: names it for people.
        work: what does the steps; keeps all state.
        total: number of steps.

    Attributes:
        unit: what a step is called in messages.
        headline: which of a step's numbers are shown while it runs.
    """

    unit: str
    headline: tuple[str, ...] = ("loss", "accuracy")

    def __init__(self, name: str, title: str, work: Any, total: int) -> None:
        self.name = name
        self.title = title
        self.work = work
        self.total = total

    @property
    @abstractmethod
    def done(self) -> int:
        """Number of steps done."""

    @abstractmethod
    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        """Do one step.

        Args:
            on_move: called with the position within the stage, in steps, fractions included.

        Returns:
            Numbers to record.
        """


class SupernetStage(Stage):
    """A method's training; a step is an epoch.

    Args:
        loop: what trains.
        until: epoch to stop at for now; default: the last.
    """

    unit = "epoch"

    def __init__(self, loop: TrainingLoop, until: int | None = None) -> None:
        super().__init__("supernet", "train supernet", loop, until or loop.settings.epochs)

    @property
    def done(self) -> int:
        return self.work.epoch

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        report = self.work.train_epoch(_epoch_position(self.done, on_move))
        values = {"loss": report.loss, "accuracy": report.accuracy, "learning_rate": report.learning_rate}
        return values | report.numbers | {f"share_{name}": share for name, share in report.operation_shares.items()}


class SearchStage(Stage):
    """A search; a step is a generation.

    Args:
        archive: evaluates, and keeps what is found.
        settings: of the search.
    """

    unit = "generation"

    def __init__(self, archive: Archive, settings: SearchSettings) -> None:
        super().__init__("search", "search", Generations(archive, settings), settings.generations)
        self.headline = (f"best_{archive.score}", f"mean_{archive.score}")

    @property
    def done(self) -> int:
        return self.work.generation

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        evaluated = count(1)
        size = self.work.settings.population
        self.work.archive.on_evaluated = lambda: on_move(self.done + min(next(evaluated) / size, 1))
        report = self.work.step()
        values = {
            "best_loss": report.best.scores.loss,
            "best_accuracy": report.best.scores.accuracy,
            "best_macs": report.best.macs,
            "mean_loss": report.mean.loss,
            "mean_accuracy": report.mean.accuracy,
            "evaluated": len(report.evaluated),
        }
        return values | {f"share_{name}": share for name, share in report.operation_shares.items()}


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


def run_stage(stage: Stage, folder: RunFolder, metrics: MetricsLog, progress: ConsoleProgress) -> float:
    """Bring a stage to its end, from where an earlier process left it; a checkpoint follows every step.

    Args:
        stage: what to do.
        folder: where checkpoints are and go.
        metrics: where each step's numbers go.
        progress: where they are shown.

    Returns:
        Seconds that the stage took, in all processes together.

    Raises:
        DivergedError: if training has diverged: of that step nothing is recorded or saved.
        RunFolderError: if its checkpoint cannot be used.
        OSError: if a file cannot be written; the checkpoint of the step before is untouched.
    """
    seconds = _go_back_to_checkpoint(stage, folder, metrics)
    progress.start(stage.title, stage.total, stage.done)
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
