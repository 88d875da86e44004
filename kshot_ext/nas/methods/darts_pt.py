"""DARTS with selection by perturbation: an operation is worth what the supernet loses without it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from kshot_ext.nas.checks import check_at_least, check_between, check_one_of
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.found_stage import FoundStage
from kshot_ext.nas.methods.parts.held_out_step import held_out_step
from kshot_ext.nas.methods.parts.relaxation import MixtureMethod, Rows, SinglePaths
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.calibration import batch_statistics
from kshot_ext.nas.networks.evaluation import SCORES, Scores, evaluate_network
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.loop import Step, Stepper

_SELECTIONS = ("perturbation", "magnitude")


@dataclass(frozen=True, kw_only=True)
class DartsPTSettings(MethodSettings):
    """How logits are trained, and how each layer's operation is selected.

    Args:
        supernet_share: share of the training before the first decision; the decisions are spread evenly over the rest,
            which is fine-tuning.
        selection: ``"perturbation"``, or ``"magnitude"``: the largest logit, as in DARTS, to compare with.
        criterion: what the supernet loses without an operation, ``"accuracy"`` or ``"loss"``; of operations with equal
            accuracy the loss decides.
        score_batches: held-out batches that the supernet is scored on without an operation.
        train_logits: whether logits are trained; else all candidates keep equal weights until they are decided on.
        logit_learning_rate, logit_weight_decay: of Adam on the logits.

    Raises:
        ValueError: if a value is out of range, or magnitudes are to decide that are not trained.
    """

    name: str = "darts-pt"
    supernet_share: float = 0.5
    selection: str = "perturbation"
    criterion: str = "accuracy"
    score_batches: int = 8
    train_logits: bool = True
    logit_learning_rate: float = 3e-4
    logit_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        check_between("supernet_share", self.supernet_share, 0, 1)
        check_one_of("selection", self.selection, _SELECTIONS)
        check_one_of("criterion", self.criterion, SCORES)
        check_at_least("score_batches", self.score_batches, 1)
        check_at_least("logit_learning_rate", self.logit_learning_rate, 0)
        check_at_least("logit_weight_decay", self.logit_weight_decay, 0)
        if self.selection == "magnitude" and not self.train_logits:
            raise ValueError("selection: magnitude needs logits that are trained, expected train_logits = true")


class Decision(NamedTuple):
    """What was decided of a layer, and what the logits would have had."""

    layer: int
    choice: int
    largest_logit: int


class DartsPT(MixtureMethod[DartsPTSettings]):
    """Trains a mixture of all candidates, weighed by a softmax; then decides on one layer after the other:

        weights w_l = softmax(logits_l);    choice of l = argmin_o score(mixture with w_lo = 0, all else as it is)

    Weights are trained on the steps' images, logits on held-out ones. Layers are decided in random order; what is left
    of the mixture is trained on in between. Scores are those of held-out batches, normalised by their own statistics:
    running ones would be wrong without the operation.

    Wang et al., "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021.
    """

    summary = "a mixture of all operations; each layer keeps the one whose removal hurts most"
    paper = "Wang et al., Rethinking Architecture Selection in Differentiable NAS, ICLR 2021"
    Settings = DartsPTSettings
    any_task = True
    needs_held_out = True

    def __init__(self, setup: Setup, settings: DartsPTSettings) -> None:
        super().__init__(setup, settings)
        self.decisions: list[Decision] = []
        undecided = [layer for layer, count in enumerate(self.relaxation.counts) if count > 1]
        first = settings.supernet_share * setup.num_steps
        gap = (setup.num_steps - first) / max(len(undecided), 1)
        self._due = [math.floor(first + number * gap) for number in range(len(undecided))]

    def logit_optimizer(self) -> Optimizer:
        own = self.settings
        return torch.optim.Adam(
            [self.relaxation.logits], own.logit_learning_rate, betas=(0.5, 0.999), weight_decay=own.logit_weight_decay
        )

    @property
    def networks(self) -> SinglePaths:
        return SinglePaths(self.supernet)

    @property
    def undecided(self) -> list[int]:
        """Layers with more than one candidate."""
        return (self.relaxation.kept.sum(dim=1) > 1).nonzero()[:, 0].tolist()

    @property
    def found(self) -> Architecture:
        """The architecture decided on, by the largest logits where nothing is decided yet."""
        return Architecture(tuple(self.relaxation.softmax().argmax(dim=1).tolist()))

    def selection(self, tools: SelectionTools) -> FoundStage:
        """Scores the architecture that was decided on."""
        return FoundStage(tools.archive, lambda: [self.found])

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        """Decides what is due, then trains the logits, then the weights."""
        while len(self.decisions) < len(self._due) and do.number >= self._due[len(self.decisions)]:
            self._decide(do)
        if self.settings.train_logits and self.undecided:
            self._train_logits(do)
        done = self.backward(self.relaxation.rows(self.relaxation.softmax().detach()), images, labels, do)
        do.apply(self.optimizers["supernet"], clip_norm=self.training.clip_norm)
        return done

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        agreeing = [decision.choice == decision.largest_logit for decision in self.decisions]
        agreement = {"agreement": sum(agreeing) / len(agreeing)} if agreeing else {}
        return {"decided": float(len(self.decisions)), "mixture_entropy": self.relaxation.entropy(), **agreement}

    def state_dict(self) -> dict[str, Any]:
        return {"decisions": [list(decision) for decision in self.decisions]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decisions = [Decision(*decision) for decision in state["decisions"]]

    def _train_logits(self, do: Stepper) -> None:
        """One step of the logits, on held-out images."""

        def loss_of(images: Tensor, labels: Tensor) -> Tensor:
            return self.mixture_loss(self.relaxation.rows(self.relaxation.softmax()), images, labels)[0]

        held_out_step(next(do.held_out()), loss_of, self.supernet, self.optimizers["logits"], do)

    def _decide(self, do: Stepper) -> None:
        """Leaves one operation of a random layer that has several."""
        undecided = self.undecided
        layer = undecided[int(torch.randint(len(undecided), (), generator=do.own_generator))]
        kept = self.relaxation.kept[layer].nonzero()[:, 0].tolist()
        largest = max(kept, key=self.relaxation.logits[layer].tolist().__getitem__)
        choice = largest
        if self.settings.selection == "perturbation":
            batches = list(itertools.islice(do.held_out(), self.settings.score_batches))
            scores = {operation: self.score_without(layer, operation, batches, do) for operation in kept}
            choice = min(kept, key=lambda operation: self._merits(scores[operation]))
        self.relaxation.keep_only(layer, choice)
        self.decisions.append(Decision(layer, choice, largest))

    def score_without(
        self, layer: int, operation: int, batches: Sequence[tuple[Tensor, Tensor]], do: Stepper
    ) -> Scores:
        """Scores of the mixture with one operation left out; the others keep their weights, which then sum to less.

        All processes look at whole batches, as the statistics of a part would be others.
        """
        weights: Rows = self.relaxation.rows(self.relaxation.softmax().detach())
        weights[layer][operation] = None
        with self.supernet.coded_mixture(weights) as network, batch_statistics(network), do.forward():
            scores = evaluate_network(network, batches, self.task)
        # The mean is what all agree on to the last bit.
        accuracy, loss = do.processes.summed([scores.accuracy, scores.loss])
        size = do.processes.size
        return replace(scores, accuracy=accuracy / size, loss=loss / size)

    def _merits(self, scores: Scores) -> tuple[float, float]:
        """What the supernet is worth by the criterion, then by the loss."""
        return scores.merit(self.settings.criterion), scores.merit("loss")
