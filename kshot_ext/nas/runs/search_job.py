"""The main job: train a supernet, select, train what is selected and a random rival from scratch, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.ensemble import Ensemble
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.own_classes import own_errors
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.stages import RetrainStage, SupernetStage, run_stage
from kshot_ext.nas.runs.supernet_job import SupernetJob
from kshot_ext.nas.searchers.archive import Archive, Evaluate
from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architecture_near
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.retrain import NetworkTrainer

_RIVAL_TOLERANCE = 0.02


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
        check_several_paths(settings.method.name, self.method.result_space)
        self.max_macs = Budget.parse(settings.budget).max_macs(self.space)
        bit_budget = None if settings.bit_budget is None else Budget.parse(settings.bit_budget)
        self.max_bit_operations = None if bit_budget is None else bit_budget.max_bit_operations(self.space)
        timed = settings.max_latency is not None or "latency" in settings.search.costs
        self.latency_table = LatencyTable(self.method.result_space, device=self.splits.mean.device) if timed else None
        limits = SearchLimits(
            self.max_macs, settings.max_parameters, settings.max_latency, self.latency_table, self.max_bit_operations
        )
        self._supernet_stage = SupernetStage(self.loop)
        self.archive = Archive(
            self.evaluation,
            self.method.result_space,
            limits,
            self.generator("search"),
            apply_to_all,
            settings.evaluation.score,
        )
        tools = SelectionTools(archive=self.archive, settings=settings.search, loop=self.loop)
        self._selection_stage = self._selection(tools)
        self._retraining(
            "rehearsal", self.method.result_space.cheapest()
        )  # brings to light now what would stop it later

    def run(
        self, folder: RunFolder, metrics: MetricsLog, progress: ConsoleProgress
    ) -> tuple[RunResult, list[nn.Module]]:
        """Do all stages, or what is left of them; a checkpoint follows every step.

        Args:
            folder: where checkpoints are and go.
            metrics: where each step's numbers go.
            progress: where they are shown.

        Returns:
            What was found, and the networks selected, trained from scratch.
        """
        seconds = {}

        def run(stage: Stage) -> None:
            seconds[stage.name] = run_stage(stage, folder, metrics, progress)

        self.tell_before_training(progress)
        run(self._supernet_stage)
        self.processes.close()
        self.tell_after_training(progress)
        run(self._selection_stage)
        selection = self.method.selected(self._selection_stage)

        def retrain(title: str, architecture: Architecture) -> tuple[nn.Module, RetrainedNetwork]:
            trainer = self._retraining(title, architecture)
            run(RetrainStage(title, trainer))
            return trainer.network, self._describe(title, architecture, trainer)

        best, *others = selection.architectures
        titled = [("winner", best), *((f"winner-{number}", other) for number, other in enumerate(others, start=2))]
        retrained = [retrain(title, architecture) for title, architecture in titled]
        networks = [network for network, _ in retrained]
        _, random = retrain("random", self._rival(best))
        result = RunResult(
            networks=tuple(described for _, described in retrained),
            random=random,
            ensemble_accuracy=self._ensemble_accuracy(networks) if selection.ensemble else None,
            considered=selection.considered,
            max_macs=self.max_macs,
            max_bit_operations=self.max_bit_operations,
            score=self.settings.evaluation.score,
            findings=self.method.findings,  # a selection may have trained on
            seconds=seconds,
        )
        return result, networks

    def follow(self) -> None:
        """Help another process, which does the run, to train the supernet.

        Raises:
            LostProcessError: if a process has ended too early.
        """
        self.processes.follow(self.loop)

    def _selection(self, tools: SelectionTools) -> Stage:
        """The stage that selects; a method of the user's own may have anything else, which must not cost a training."""
        with own_errors(self.settings.method.name, "method"):
            stage = self.method.selection(tools)
        if not isinstance(stage, Stage):
            raise ValueError(
                f"method: expected selection of {self.settings.method.name} to make a Stage, got {stage!r}"
            )
        return stage

    def _rival(self, winner: Architecture) -> Architecture:
        """Draw a random architecture whose cost is as near to the winner's as the space allows."""
        space = self.method.result_space
        costs = space.cost(winner)
        cost = "bit_operations" if costs.bit_operations else "macs"
        amount = getattr(costs, cost)
        return random_architecture_near(space, amount, _RIVAL_TOLERANCE, self.generator("rival"), {winner}, cost)

    def _retraining(self, title: str, architecture: Architecture) -> NetworkTrainer:
        generator = self.generator(f"retraining of {title}")
        network = self.method.result_space.build(architecture, generator).to(self.splits.mean.device)
        return NetworkTrainer(network, self.splits, self.settings.retrain, generator)

    def _ensemble_accuracy(self, networks: Sequence[nn.Module]) -> float:
        test = batches(self.splits.test, self.settings.retrain.batch_size, mean=self.splits.mean, std=self.splits.std)
        return evaluate_network(Ensemble(networks), test).accuracy

    def _describe(self, title: str, architecture: Architecture, trainer: NetworkTrainer) -> RetrainedNetwork:
        space, scores = self.method.result_space, self.evaluation(architecture)
        cost = space.cost(architecture)
        return RetrainedNetwork(
            title=title,
            architecture=architecture,
            operations=space.operation_names(architecture),
            widths=None if architecture.widths is None else space.ratios(architecture),
            macs=cost.macs,
            parameters=cost.parameters,
            supernet_accuracy=scores.accuracy,
            supernet_loss=scores.loss,
            test_accuracy=trainer.test_accuracy(),
            bit_operations=cost.bit_operations,
        )
