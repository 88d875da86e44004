"""The job of ``kshot-ext rank``: train a supernet, and compare how it ranks architectures with a published table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.findings import Findings
from kshot_ext.nas.messages import one_line
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation, kendall_tau
from kshot_ext.nas.ranking.ranking import Ranking, RankingStage, choose_architectures
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import ConsideredNetwork
from kshot_ext.nas.runs.results_file import check_results_file
from kshot_ext.nas.runs.run_folder import Checkpoint, RunFolder, RunFolderError
from kshot_ext.nas.runs.settings import RankSettings
from kshot_ext.nas.runs.stages import SupernetStage, run_stage
from kshot_ext.nas.runs.supernet_job import SupernetJob
from kshot_ext.nas.runs.warm_up import WARM_UP, load_warm_up
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.warm_up import copied_warm_up


@dataclass(frozen=True)
class RankedArchitecture:
    """An architecture of the table.

    Args:
        architecture: which.
        truth: its accuracy in the table.
        scores: its scores in the supernet at the end of training.
        macs: its multiply-accumulates for one image.
    """

    architecture: Architecture
    truth: float
    scores: Scores
    macs: int


@dataclass(frozen=True)
class RankPoint:
    """The ranking at one point of training, after ``epoch`` epochs and ``steps`` steps.

    Args:
        by_accuracy, by_loss: of networks with the supernet's weights on the held-out images.
    """

    epoch: int
    steps: int
    by_accuracy: RankCorrelation
    by_loss: RankCorrelation

    def by(self, score: str) -> RankCorrelation:
        """The ranking by ``"loss"`` or ``"accuracy"``."""
        return self.by_loss if score == "loss" else self.by_accuracy

    def numbers(self) -> dict[str, float | None]:
        """For files of results: plain names are by accuracy."""
        by_loss = {f"{name}_by_loss": value for name, value in asdict(self.by_loss).items()}
        return {"steps": self.steps, **asdict(self.by_accuracy), **by_loss}


@dataclass(frozen=True)
class RankResult:
    """What a ranking run found.

    Args:
        points: rankings over training, the last one at its end.
        architectures: all that were evaluated.
        findings: what the method tells of its own at the end; None if nothing.
        score: which ranking is meant where one is asked for, ``"loss"`` or ``"accuracy"``.
        seconds: time of each stage.
    """

    points: tuple[RankPoint, ...]
    architectures: tuple[RankedArchitecture, ...]
    findings: Findings | None
    score: str
    seconds: dict[str, float]

    @property
    def final(self) -> RankPoint:
        return self.points[-1]

    @property
    def tau_of_macs(self) -> float | None:
        """Kendall's tau of multiply-accumulates and truth: what a ranking by cost alone has, without a supernet."""
        return kendall_tau([item.truth for item in self.architectures], [item.macs for item in self.architectures])


class RankJob(SupernetJob[RankSettings]):
    """Everything a ranking run needs, checked before anything is written.

    Args:
        settings: what to do.
        splits: the images to do it with; there need be no test images.
        apply_to_all: evaluates some architectures; see `Ranking`.

    Raises:
        ValueError: if settings, images, space and table do not fit together.
    """

    def __init__(
        self, settings: RankSettings, splits: DataSplits, apply_to_all: Callable[..., Iterable[Scores]] = map
    ) -> None:
        if settings.truth is None:
            raise ValueError("truth: expected a table of stand-alone accuracies: --truth FILE")
        if settings.results is not None:
            check_results_file(Path(settings.results))
        _check_shared_warm_up(settings)
        super().__init__(settings, splits)
        self.apply_to_all = apply_to_all
        self.architectures = choose_architectures(
            self.space, self.known_truth, settings.architectures, self.generator("ranking")
        )
        self.macs = [self.space.count_macs(architecture) for architecture in self.architectures]

    @property
    def epochs_ranked(self) -> tuple[int, ...]:
        """Epochs after which architectures are evaluated, evenly spread; the last one is the end.

        Those inside a warm-up that another run has done are left out.
        """
        epochs, count = self.settings.training.epochs, self.settings.checkpoints
        first = 0 if self.settings.warm_up is None else self.settings.training.warm_up
        points = (-(-epochs * point // count) for point in range(1, count + 1))
        return tuple(dict.fromkeys(epoch for epoch in points if epoch >= first))

    def run(
        self,
        folder: RunFolder[RankSettings],
        metrics: MetricsLog,
        progress: ConsoleProgress,
        callbacks: Callbacks = SILENT,
    ) -> RankResult:
        """Train and evaluate, or what is left of it; a checkpoint follows every step.

        Args:
            folder: where checkpoints are and go.
            metrics: where each step's numbers go.
            progress: where they are shown.
            callbacks: told of stages, steps, and architectures evaluated.

        Raises:
            RunFolderError: if a checkpoint cannot be used, or one is gone that cannot be made again.
            OSError: if a file cannot be written.
        """
        self.get_ready(progress)
        seconds: dict[str, float] = {}
        points: list[RankPoint] = []
        # A point is recorded only when all its evaluations are saved, so none is recorded too early.
        metrics.begin_stage("ranking", self.settings.training.epochs)
        given = self.begin_from_warm_up() if folder.load_checkpoint("supernet") is None else None
        if given is not None:
            folder.save_checkpoint("supernet", given)
        for epoch in self.epochs_ranked:
            if epoch >= self.settings.training.warm_up:  # not past points that are to be evaluated before
                self._keep_warm_up(folder, metrics, progress, callbacks)
            # An evaluation of its own: workers keep one, and the weights in it, for as long as it is the same.
            ranking = Ranking(self.architectures, replace(self.evaluation), self.apply_to_all)
            ranking.on_evaluated = lambda *result: callbacks.on_evaluated(self._considered(*result))
            training, evaluation = SupernetStage(self.loop, until=epoch), RankingStage(epoch, ranking)
            # This stage begins from its checkpoint, so what evaluation does to averages is undone.
            seconds[training.name] = run_stage(training, folder, metrics, progress, callbacks)
            self._check_not_past(epoch, folder, evaluation)
            if self.loop.finished:
                self.tell_after_training(progress)
            with self.loop.averaged():
                seconds[evaluation.name] = run_stage(evaluation, folder, metrics, progress, callbacks)
            steps = epoch * self.loop.steps_per_epoch
            by_accuracy, by_loss = (ranking.by(score, self.known_truth, self.macs) for score in ("accuracy", "loss"))
            points.append(RankPoint(epoch, steps, by_accuracy, by_loss))
            numbers = {name: value for name, value in points[-1].numbers().items() if value is not None}
            metrics.record_once("ranking", epoch, numbers)
        ranked = (
            RankedArchitecture(path, self.known_truth[path], scores, macs)
            for path, scores, macs in zip(self.architectures, ranking.scores, self.macs)
        )
        return RankResult(tuple(points), tuple(ranked), self.method.findings, self.settings.evaluation.score, seconds)

    @property
    def known_truth(self) -> dict[Architecture, float]:
        """What architectures reach alone."""
        assert self.truth is not None, "a ranking has a table"
        return self.truth

    def begin_from_warm_up(self) -> Checkpoint | None:
        """What training begins with if that is the warm-up of another run; None if this run does its own.

        Raises:
            RunFolderError: if there is no such warm-up, or this run would not have done it alike.
        """
        source = self.settings.warm_up
        if source is None:
            return None
        if self.method.coded is None:
            raise RunFolderError(f"warm_up: method {self.settings.method.name} has no copies that could begin from one")
        checkpoint = load_warm_up(Path(source), self.settings, self.splits.digest())
        try:
            state = copied_warm_up(checkpoint.state, self.loop, self.method.coded)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RunFolderError(f"{source}: its warm-up does not fit this run ({one_line(error)})") from error
        return Checkpoint(state, checkpoint.seconds, checkpoint.records)

    def _considered(self, number: int, architecture: Architecture, scores: Scores) -> ConsideredNetwork:
        cost = self.space.cost(architecture)
        evaluated = Evaluated(architecture, scores, cost.macs, cost.parameters, score=self.settings.evaluation.score)
        return ConsideredNetwork.of(number, evaluated, self.space)

    def _keep_warm_up(
        self, folder: RunFolder[RankSettings], metrics: MetricsLog, progress: ConsoleProgress, callbacks: Callbacks
    ) -> None:
        """Train to the end of warm-up and keep the state there, if the settings say so."""
        if not self.settings.keep_warm_up or folder.checkpoint_path(WARM_UP).exists():
            return
        run_stage(SupernetStage(self.loop, until=self.settings.training.warm_up), folder, metrics, progress, callbacks)
        if self.loop.epoch == self.settings.training.warm_up:
            trained = folder.load_checkpoint("supernet")
            assert trained is not None, "the stage has saved it"
            folder.save_checkpoint(WARM_UP, trained)

    def _check_not_past(self, epoch: int, folder: RunFolder[RankSettings], evaluation: RankingStage) -> None:
        """Refuse to evaluate later weights as if they were those after ``epoch``."""
        checkpoint = folder.load_checkpoint(evaluation.name) if self.loop.epoch > epoch else None
        if self.loop.epoch > epoch and (checkpoint is None or len(checkpoint.records) < evaluation.total):
            raise RunFolderError(
                f"{folder.checkpoint_path(evaluation.name)}: this evaluation is gone, and training has gone on since; "
                f"bring it back from a copy, or delete {folder.checkpoint_path('supernet')} to train again"
            )


def _check_shared_warm_up(settings: RankSettings) -> None:
    """Refuse to keep, or to take over, a warm-up that there is none of, or that training does not get to the end of."""
    training = settings.training
    if (settings.keep_warm_up or settings.warm_up is not None) and not 1 <= training.warm_up <= training.epochs:
        raise ValueError(
            f"training.warmup_epochs: expected 1 to {training.epochs}, the epochs of the training, as its end is to be "
            f"shared with other runs, got {training.warm_up}"
        )


def ranking_entry(run: str, job: RankJob, result: RankResult) -> dict[str, Any]:
    """The run's entry in a file of results, see `kshot_ext.nas.runs.results_file.add_result`."""
    settings = job.settings
    return {
        "run": run,
        "method": settings.method.name,
        "shots": settings.shots,
        "seed": settings.seed,
        "score": result.score,
        **result.final.numbers(),
        "architectures": len(result.architectures),
        "kendall_tau_of_macs": result.tau_of_macs,
        **({} if result.findings is None else result.findings.ranking),
        "seconds": round(sum(result.seconds.values()), 1),
        "space": job.space.name,
        "image_shape": job.space.image_shape,
        "channels": settings.channels,
        "epochs": settings.training.epochs,
        "batch_size": settings.training.batch_size,
        "validation_images": len(job.evaluation.validation),
        "curve": [point.numbers() for point in result.points],
    }
