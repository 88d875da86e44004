"""Search for ensembles: networks that share a trunk, chosen together, in a space that diversity helps to shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.path_method import PathMethod, weight_optimizer
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.parts.shrinking import (
    Judgement,
    mean_by_operation,
    ranks,
    shrinking_schedule,
    without_the_worst,
)
from kshot_ext.nas.methods.selection import Selection, SelectionTools
from kshot_ext.nas.networks.calibration import batch_statistics
from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from kshot_ext.nas.networks.inherited_ensembles import InheritedEnsembles
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.searchers.search_stage import SearchStage
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.ensembles import EnsembleSpace
from kshot_ext.nas.spaces.sampling import random_architectures
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.nas.training.path_sampling import evenly

_MOST_HEADS = 16
_IMAGES_TO_JUDGE_BY = 512


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings(MethodSettings):
    """How large ensembles are, and how their space shrinks.

    Args:
        heads: networks of an ensemble.
        shrinks: how many times operations are dropped, evenly spread over the training; 0 to keep all.
        kept_operations: operations that each layer keeps at least.
        judged_ensembles: random ensembles that operations are judged by each time.
        diversity: how much the disagreement of an ensemble's networks counts, against its accuracy's 1.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "neas"
    heads: int = 2
    shrinks: int = 4
    kept_operations: int = 2
    judged_ensembles: int = 48
    diversity: float = 1.0

    def __post_init__(self) -> None:
        check_at_least("heads", self.heads, 2, _MOST_HEADS)
        check_at_least("shrinks", self.shrinks, 0)
        check_at_least("kept_operations", self.kept_operations, 1)
        check_at_least("judged_ensembles", self.judged_ensembles, 1)
        check_at_least("diversity", self.diversity, 0)


class EnsembleSearch(PathMethod[EnsembleSettings]):
    """Trains random ensembles of k networks with a common trunk of random length:

        loss = sum_i cross-entropy(f_i(x)),    f(x) = 1/k sum_i f_i(x)

    The trunk is computed once, and the gradient that enters it is divided by k, so that trunk and branches move alike.
    Each network has a supernet of its own for what lies behind the trunk: of the same operation two networks have
    different weights. The first one's holds the trunk.

    A few times operations are dropped that random ensembles with them do without, by accuracy and diversity:

        rank of the mean accuracy of ensembles with the operation + diversity * rank of their mean disagreement
        disagreement = mean_{i<m} || softmax f_i - softmax f_m ||

    on held-out images. With K > 1 copies each network has the code that its architecture starts with, the trunk the
    first one's.

    Chen et al., "One-Shot Neural Ensemble Architecture Search by Diversity-Guided Search Space Shrinking", CVPR 2021.

    Raises:
        ValueError: if the networks of the space are no chains of layers, paths are to be drawn in another way than
            uniformly, or too few ensembles would be judged to meet every operation.
    """

    summary = "ensembles with a shared trunk, in a space that shrinks by accuracy and diversity"
    paper = "Chen et al., One-Shot Neural Ensemble Architecture Search by Diversity-Guided Space Shrinking, CVPR 2021"
    Settings = EnsembleSettings

    def __init__(self, setup: Setup, settings: EnsembleSettings) -> None:
        check_several_paths(settings.name, setup.space)
        self.ensembles = EnsembleSpace(setup.space, settings.heads)
        _check_fit(setup, settings)
        super().__init__(setup, settings)
        self.branches = nn.ModuleList(self._build_branch(number) for number in range(1, settings.heads))
        self.modules = {**self.modules, "branches": self.branches}
        weights = nn.ModuleList([self.supernet, *self.branches])
        self.optimizers = {"supernet": weight_optimizer(weights, setup.training, setup.shots)}
        counts = [len(setup.space.operations(layer)) for layer in range(setup.space.num_layers)]
        self._targets = shrinking_schedule(counts, settings.kept_operations, setup.training.epochs, settings.shrinks)
        self.needs_held_out = bool(self._targets)

    @classmethod
    def num_copies(cls, settings: EnsembleSettings, shots: int) -> int:
        return settings.heads * shots

    @property
    def networks(self) -> InheritedEnsembles:
        return InheritedEnsembles(self.ensembles, (self.supernet, *self.branches), self.simplex_net)

    @property
    def result_space(self) -> EnsembleSpace:
        return self.ensembles

    def figures(self, architectures: Sequence[Architecture], records: Sequence[Mapping[str, Any]]) -> Iterable[Figure]:
        """The codes of the ensembles' first networks."""
        firsts = (one if self.ensembles.is_single(one) else self.ensembles.members(one)[0] for one in architectures)
        return super().figures([*firsts], records)

    def draw_paths(self, images: Tensor, labels: Tensor, do: Stepper) -> list[Architecture]:
        """One ensemble, of what the space has kept."""
        return [self.ensembles.sample(do.generator)]

    def train_paths(  # type: ignore[override]  # its paths have equal shares, or shares of its own
        self, paths: list[Architecture], images: Tensor, labels: Tensor, do: Stepper
    ) -> Step:
        """Moves the weights of an ensemble.

        Raises:
            DivergedError: if the loss of one of its networks is not finite; in all processes.
        """
        [ensemble] = paths
        members = self.ensembles.members(ensemble)
        codes = [self.simplex_net.code(member) for member in members]
        fall, tally = do.learning_rate_fall, Tally()
        factors = [self._path_steps.factor(member, code, fall) for member, code in zip(members, codes)]
        with do.forward(), self.networks.network(ensemble) as network:
            scores = network.members(images, trunk_gradient=1 / len(members))
            losses = [F.cross_entropy(f, labels, label_smoothing=self.training.label_smoothing) for f in scores]
        do.backward(cast("Tensor", sum(factor * loss for factor, loss in zip(factors, losses))))
        tally.add(torch.stack(losses).detach().mean(), torch.stack(scores).mean(dim=0), labels)
        values = do.processes.summed([do.share * loss.item() for loss in losses])
        check_path_losses(values, members, codes)
        do.apply(self.optimizers["supernet"], clip_norm=self._clip_norm * self._path_steps.mean_rate(members, fall))
        return Step(sum(values) / len(values), tally, members)

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """Drops operations where it is time for that; how many are left."""
        target = self._targets.get(do.number // do.steps_per_epoch)
        if target is not None and target < self._num_kept:
            self.shrink(target, do)
        return {**super().end_epoch(do), "kept_operations": self._num_kept}

    def shrink(self, target: int, do: Stepper) -> None:
        """Drops the worst operations of all layers until so many are left."""
        accuracy, diversity = map(ranks, self.judge(do))
        worth = {choice: rank + self.settings.diversity * diversity[choice] for choice, rank in accuracy.items()}
        left = without_the_worst(self.ensembles.kept, worth, target, self.settings.kept_operations)
        self.ensembles.keep(left)

    @torch.no_grad()
    def judge(self, do: Stepper) -> tuple[Judgement, Judgement]:
        """Mean accuracy and mean disagreement of random ensembles with each operation of each layer, on one set of
        held-out images; each operation that is kept is met equally often in the first network."""
        ensembles = self._evenly_drawn(do.own_generator)
        images, labels = do.held_out_images(min(_IMAGES_TO_JUDGE_BY, do.num_held_out))
        found = [value for ensemble in ensembles for value in self._measure(ensemble, images, labels, do)]
        # All processes see the same images. The mean is what they agree on to the last bit.
        found = [value / do.processes.size for value in do.processes.summed(found)]
        networks = [[member.operations for member in self.ensembles.members(ensemble)] for ensemble in ensembles]
        accuracy, diversity = (
            mean_by_operation(self.ensembles.kept, [*zip(networks, found[number::2])]) for number in range(2)
        )
        return accuracy, diversity

    def selection(self, tools: SelectionTools) -> KeptSearch:
        return KeptSearch(tools.archive, tools.settings)

    def selected(self, stage: KeptSearch) -> Selection:
        stage.make_room()  # what is searched for besides, such as a rival, comes from the same space
        return super().selected(stage)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kept": [list(operations) for operations in self.ensembles.kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.ensembles.keep(state["kept"])

    @property
    def _num_kept(self) -> int:
        return sum(map(len, self.ensembles.kept))

    def _build_branch(self, number: int) -> Supernet:
        setup, codes = self.setup, self.setup.codes
        generator = setup.generator(f"supernet {number}")
        branch = Supernet(
            self.space, setup.shots, generator,
            perturbation=codes.perturbation, mixed_batch_norm=codes.mixed_batch_norm,
        )  # fmt: skip
        return branch.to(setup.device)

    def _evenly_drawn(self, generator: torch.Generator) -> list[Architecture]:
        """Random ensembles in which each choice is as frequent as the others of its gene."""
        count = self.settings.judged_ensembles
        columns = [evenly(self.space.num_layers + 1, count, generator)]
        for _ in range(self.settings.heads):
            for kept in self.ensembles.kept:
                columns.append([kept[choice] for choice in evenly(len(kept), count, generator)])
        for _ in range(self.ensembles.num_widths):
            columns.append(evenly(len(self.space.widths or ()), count, generator))
        return [self.ensembles.from_genes(genes) for genes in zip(*columns)]

    def _measure(self, ensemble: Architecture, images: Tensor, labels: Tensor, do: Stepper) -> tuple[float, float]:
        """Accuracy and disagreement of an ensemble with the statistics of these images."""
        inherited = self.networks.network(ensemble)
        with do.forward(), inherited as network, evaluation_mode(network), batch_statistics(network):
            scores = [f.float() for f in network.members(images)]
        accuracy = (torch.stack(scores).mean(dim=0).argmax(dim=1) == labels).float().mean().item()
        return accuracy, disagreement(scores).item()


class KeptSearch(SearchStage):
    """Searches ensembles of the operations that are kept.

    Training does not know the limits of a run. Where too few ensembles of what it has kept are within them, all layers
    get operations back, the cheapest ones first.
    """

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        self.make_room()
        return {**super().step(on_move), "kept_operations": sum(map(len, self.work.archive.space.kept))}

    def make_room(self) -> None:
        """Gives back what is needed; the same whenever it is asked for after the training."""
        archive, population = self.work.archive, self.work.settings.population
        while True:
            try:
                random_architectures(archive.space, archive.limits, population, torch.Generator().manual_seed(0))
            except ValueError:
                if archive.space.give_back():
                    continue
                raise
            return


def disagreement(scores: Sequence[Tensor]) -> Tensor:
    """The mean distance between the class probabilities of an ensemble's networks.

    Args:
        scores: float ``[N, C]`` of each network, two at least.

    Example:
        >>> sure = torch.tensor([[100.0, 0.0]])
        >>> round(disagreement([sure, sure, sure.flip(1)]).item(), 4)  # two of three pairs are sqrt(2) apart
        0.9428
    """
    probabilities = [f.softmax(dim=1) for f in scores]
    return torch.stack([(p - q).norm(dim=1).mean() for p, q in combinations(probabilities, 2)]).mean()


def _check_fit(setup: Setup, settings: EnsembleSettings) -> None:
    if setup.training.path_sampling != "uniform":
        raise ValueError(
            f"path_sampling: expected uniform, as method {settings.name} draws ensembles, "
            f"got {setup.training.path_sampling!r}"
        )
    most = max(len(setup.space.operations(layer)) for layer in range(setup.space.num_layers))
    if settings.shrinks and settings.judged_ensembles < most:
        raise ValueError(
            f"judged_ensembles: expected at least the {most} operations of a layer, so that each is met, "
            f"got {settings.judged_ensembles}"
        )
