"""The main job: train a supernet, search it, train the winner and a random rival from scratch, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from torch import nn

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.stages import RetrainStage, SearchStage, Stage, SupernetStage, run_stage
from kshot_ext.nas.runs.supernet_job import SupernetJob
from kshot_ext.nas.search.archive import Archive, Evaluate
from kshot_ext.nas.search.latency_table import LatencyTable
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architecture_of_equal_budget, random_architectures
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.retrain import NetworkTrainer

_RIVAL_TOLERANCES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


class SearchJob(SupernetJob[RunSettings]):
    """Everything a run needs, checked before anything is written.

    Args:
        settings: what to do.
        splits: the images to do it with.
        processes: those that train the supernet together; None for this one alone.
        apply_to_all: evaluates a population; see `Archive`.

    Raises:
        ValueError: if settings, images and space do not fit together, or no network meets the budget.
    """

    def __init__(
        self,
        settings: RunSettings,
        splits: DataSplits,
        processes: DataParallel | None = None,
        apply_to_all: Callable[[Evaluate, Sequence[Architecture]], Iterable[Scores]] = map,
    ) -> None:
        super().__init__(settings, splits, processes)
        self.max_macs = Budget.parse(settings.budget).max_macs(self.space)
        timed = settings.max_latency is not None or "latency" in settings.search.costs
        self.latency_table = LatencyTable(self.space, device=self.splits.mean.device) if timed else None
        limits = SearchLimits(self.max_macs, settings.max_parameters, settings.max_latency, self.latency_table)
        self._supernet_stage = SupernetStage(self.loop)
        self.archive = Archive(
            self.evaluation,
            self.space,
            limits,
            self.generator("search"),
            apply_to_all,
            settings.evaluation.score,
        )
        self._search_stage = SearchStage(self.archive, settings.search)
        self.search = self._search_stage.work
        self._rehearse(limits)

    def run(self, folder: RunFolder, metrics: MetricsLog, progress: ConsoleProgress) -> tuple[RunResult, nn.Module]:
        """Do all stages, or what is left of them; a checkpoint follows every step.

        Args:
            folder: where checkpoints are and go.
            metrics: where each step's numbers go.
            progress: where they are shown.

        Returns:
            What was found, and the winner, trained from scratch.
        """
        seconds = {}

        def run(stage: Stage) -> None:
            seconds[stage.name] = run_stage(stage, folder, metrics, progress)

        self.tell_if_codes_start_alike(progress)
        run(self._supernet_stage)
        self.processes.close()
        codes = self.code_report()
        for shortfall in () if codes is None else codes.shortfalls:
            progress.tell(f"supernet: this is a one-shot run, as {shortfall}")
        run(self._search_stage)

        def retrain(title: str, architecture: Architecture) -> tuple[nn.Module, RetrainedNetwork]:
            trainer = self._retraining(title, architecture)
            run(RetrainStage(title, trainer))
            return trainer.network, self._describe(title, architecture, trainer)

        best = self.archive.best.architecture
        network, winner = retrain("winner", best)
        _, random = retrain("random", self._rival(best))
        score = self.settings.evaluation.score
        return RunResult(winner, random, self.max_macs, score=score, codes=codes, seconds=seconds), network

    def follow(self) -> None:
        """Help another process, which does the run, to train the supernet.

        Raises:
            LostProcessError: if a process has ended too early.
        """
        self.processes.follow(self.loop)

    def _rehearse(self, limits: SearchLimits) -> None:
        """Bring to light now what would otherwise stop a later stage."""
        generator = self.generator("rehearsal")
        random_architectures(self.space, limits, self.settings.search.population, generator)
        self._retraining("rehearsal", self.space.cheapest())

    def _rival(self, winner: Architecture) -> Architecture:
        """Draw a random architecture whose cost is as near to the winner's as the space allows."""
        macs = self.space.count_macs(winner)
        generator = self.generator("rival")
        *near, widest = _RIVAL_TOLERANCES
        for tolerance in near:
            with suppress(ValueError):  # Nothing so near; look further away.
                return random_architecture_of_equal_budget(self.space, macs, tolerance, generator, {winner})
        return random_architecture_of_equal_budget(self.space, macs, widest, generator, {winner})

    def _retraining(self, title: str, architecture: Architecture) -> NetworkTrainer:
        generator = self.generator(f"retraining of {title}")
        network = self.space.build(architecture, generator).to(self.splits.mean.device)
        return NetworkTrainer(network, self.splits, self.settings.retrain, generator)

    def _describe(self, title: str, architecture: Architecture, trainer: NetworkTrainer) -> RetrainedNetwork:
        cost, scores = self.space.cost(architecture), self.evaluation(architecture)
        return RetrainedNetwork(
            title=title,
            architecture=architecture,
            operations=self.space.operation_names(architecture),
            widths=None if architecture.widths is None else self.space.ratios(architecture),
            macs=cost.macs,
            parameters=cost.parameters,
            supernet_accuracy=scores.accuracy,
            supernet_loss=scores.loss,
            test_accuracy=trainer.test_accuracy(),
        )
