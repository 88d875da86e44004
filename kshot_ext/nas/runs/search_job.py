"""The main job: train a supernet, select, train what is selected and random rivals from scratch, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from kshot_ext.nas.checks import BrokenContractError, check_given
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.selection import Selection, SelectionTools
from kshot_ext.nas.networks.ensemble import Ensemble
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.own_classes import own_errors
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import ConsideredNetwork, RetrainedNetwork, RunResult
from kshot_ext.nas.runs.run_folder import RunFolder, RunRecord
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.stages import RetrainStage, SupernetStage, run_stage
from kshot_ext.nas.runs.supernet_job import SupernetJob, restore
from kshot_ext.nas.searchers.archive import Archive, Evaluate
from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.searchers.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architecture_near
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings

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
        self.retraining(
            "rehearsal", self.method.result_space.cheapest()
        )  # brings to light now what would stop it later

    def run(
        self, folder: RunFolder, metrics: MetricsLog, progress: ConsoleProgress, callbacks: Callbacks = SILENT
    ) -> tuple[RunResult, list[nn.Module]]:
        """Do all stages, or what is left of them; a checkpoint follows every step.

        Args:
            folder: where checkpoints are and go.
            metrics: where each step's numbers go.
            progress: where they are shown.
            callbacks: told of stages, steps, and architectures evaluated.

        Returns:
            What was found, and the networks selected, trained from scratch.
        """
        seconds = {}

        def run(stage: Stage) -> None:
            seconds[stage.name] = run_stage(stage, folder, metrics, progress, callbacks)

        self.get_ready(progress)
        run(self._supernet_stage)
        self.processes.close()
        self.tell_after_training(progress)
        with self.archive.listening(lambda result: callbacks.on_evaluated(self._considered(result))):
            run(self._selection_stage)
        selection = self._selected()

        def retrain(title: str, architecture: Architecture, seeds: int = 1) -> tuple[nn.Module, RetrainedNetwork]:
            trainers = []
            for name in (title, *(f"{title}-seed-{number}" for number in range(2, seeds + 1))):
                trainers.append(self.retraining(name, architecture))
                run(RetrainStage(name, trainers[-1]))
            return trainers[0].network, self.describe(title, architecture, trainers, self.evaluation(architecture))

        best = selection.architectures[0]
        retrained = [
            retrain(title, architecture, self.settings.retrain.seeds if architecture == best else 1)
            for title, architecture in _titled("winner", selection.architectures)
        ]
        networks = [network for network, _ in retrained]
        rivals = [retrain(title, rival)[1] for title, rival in _titled("random", self._rivals(best, progress))]
        result = RunResult(
            networks=tuple(described for _, described in retrained),
            rivals=tuple(rivals),
            ensemble_accuracy=self._ensemble_accuracy(networks) if selection.ensemble else None,
            considered=selection.considered,
            front=pareto_front(selection.considered, self.settings.search.costs),
            space=self.method.result_space,
            max_macs=self.max_macs,
            max_bit_operations=self.max_bit_operations,
            score=self.settings.evaluation.score,
            task=self.splits.task,
            costs=self.settings.search.costs,
            test_images=len(self.splits.test),
            findings=self.method.findings,  # a selection may have trained on
            seconds=seconds,
        )
        return result, networks

    def _selected(self) -> Selection:
        """What the method has selected; one of the user's own may give anything else."""
        selection = self.method.selected(self._selection_stage)
        check_given("selected", selection, Selection)
        for architecture in selection.architectures:
            check_given("selected", architecture, Architecture)
            try:
                self.method.result_space.validate(architecture)
            except ValueError as error:
                raise BrokenContractError(f"selected: {error}") from error
        return selection

    def _considered(self, result: Evaluated) -> ConsideredNetwork:
        """The last result of the archive with its number and names."""
        return ConsideredNetwork.of(len(self.archive) - 1, result, self.method.result_space)

    def restore(self, record: RunRecord) -> None:
        """As of a job that only trains; and what the selection has evaluated, and trained on, if it has begun."""
        super().restore(record)
        stage = self._selection_stage
        if record.load_checkpoint(stage.name) is not None:
            restore(stage.work, record, stage.name, "")

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
            check_given("selection", stage, Stage)
        return stage

    def _rivals(self, winner: Architecture, progress: ConsoleProgress) -> list[Architecture]:
        """Draw different random architectures whose costs are as near to the winner's as the space allows."""
        space, generator = self.method.result_space, self.generator("rival")
        costs = space.cost(winner)
        cost = "bit_operations" if costs.bit_operations else "macs"
        amount = getattr(costs, cost)
        rivals: list[Architecture] = []
        while len(rivals) < self.settings.rivals:
            try:
                others = {winner, *rivals}
                rivals.append(random_architecture_near(space, amount, _RIVAL_TOLERANCE, generator, others, cost))
            except ValueError:  # no other is left, which must not cost a finished search
                progress.tell(f"rivals: expected {self.settings.rivals}, but the space has only {len(rivals)} others")
                break
        return rivals

    def retraining(
        self, title: str, architecture: Architecture, settings: RetrainSettings | None = None
    ) -> NetworkTrainer:
        """The training of an architecture from scratch, before its first epoch.

        Args:
            title: decides what is random.
            architecture: which one.
            settings: of the training; None for those of the run.
        """
        generator = self.generator(f"retraining of {title}")
        network = self.method.result_space.build(architecture, generator).to(self.splits.mean.device)
        return NetworkTrainer(network, self.splits, settings or self.settings.retrain, generator)

    def _ensemble_accuracy(self, networks: Sequence[nn.Module]) -> float:
        test = batches(self.splits.test, self.settings.retrain.batch_size, mean=self.splits.mean, std=self.splits.std)
        return evaluate_network(Ensemble(networks), test, self.splits.task).accuracy

    def describe(
        self, title: str, architecture: Architecture, trainers: Sequence[NetworkTrainer], scores: Scores
    ) -> RetrainedNetwork:
        """What an architecture is and what its trainings reached, beside its scores with the supernet's weights."""
        accuracies = tuple(trainer.test_accuracy() for trainer in trainers)
        space = self.method.result_space
        cost = space.cost(architecture)
        return RetrainedNetwork(
            title=title,
            architecture=architecture,
            **space.named(architecture),
            macs=cost.macs,
            parameters=cost.parameters,
            supernet_accuracy=scores.accuracy,
            supernet_loss=scores.loss,
            test_accuracy=accuracies[0],
            bit_operations=cost.bit_operations,
            test_accuracies=accuracies,
        )


def _titled(title: str, architectures: Sequence[Architecture]) -> list[tuple[str, Architecture]]:
    """Architectures by titles: the title itself, then the title with ``-2``, ``-3``, ... added."""
    return [
        (title if number == 1 else f"{title}-{number}", architecture)
        for number, architecture in enumerate(architectures, start=1)
    ]
