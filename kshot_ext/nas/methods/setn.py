"""Self-evaluated template network: beside uniformly trained weights an evaluator learns which candidates are worth
scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.checks import check_at_least, check_one_of
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.held_out_step import held_out_step
from kshot_ext.nas.methods.parts.operation_distribution import OperationDistribution
from kshot_ext.nas.methods.parts.path_method import PathMethod
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.search_stage import SearchStage
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.loop import Step, Stepper

_SELECTIONS = ("sampled", "likeliest")
_FIRST_LOGITS = 1e-3
_BETAS = (0.5, 0.999)
_TRIES_WITHIN_LIMITS = 100
_MOST_LOOKED_AT = 20_000  # of the likeliest, most of which may be beyond the limits


@dataclass(frozen=True, kw_only=True)
class TemplateSettings(MethodSettings):
    """How the evaluator learns, and how it chooses candidates.

    Args:
        evaluator_learning_rate: of the evaluator's Adam.
        evaluator_weight_decay: L2 penalty on the evaluator's logits.
        selection: ``sampled``: candidates are drawn by their probability, as in the paper; ``likeliest``: the most
            probable ones, as in the authors' code.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "setn"
    evaluator_learning_rate: float = 0.03
    evaluator_weight_decay: float = 1e-3
    selection: str = "sampled"

    def __post_init__(self) -> None:
        check_at_least("evaluator_learning_rate", self.evaluator_learning_rate, 0)
        check_at_least("evaluator_weight_decay", self.evaluator_weight_decay, 0)
        check_one_of("selection", self.selection, _SELECTIONS)


class SelfEvaluatedTemplate(PathMethod[TemplateSettings]):
    """Alternates a step of the weights and one of the evaluator's logits A, each on images of its own:

        w:  loss(a, w) on training images, with a drawn uniformly
        A:  loss of the mixture on held-out images, in which layer l puts out sum_o softmax(A_l)_o * operation_o(x)

    Were weights trained by the paths that the evaluator prefers, operations that learn fast would be trained more and
    so preferred more. The search then scores candidates that the evaluator proposes, and no others.

    A mixture is no architecture, so it has no code of its own: K > 1 copies are mixed evenly in it. Nor has it one of
    the widths, which are drawn uniformly for each step.

    Dong and Yang, "One-Shot Neural Architecture Search via Self-Evaluated Template Network", ICCV 2019.
    """

    summary = "uniform single paths, and an evaluator that learns which candidates to score"
    paper = "Dong and Yang, One-Shot Neural Architecture Search via Self-Evaluated Template Network, ICCV 2019"
    Settings = TemplateSettings
    any_task = True
    needs_held_out = True

    def __init__(self, setup: Setup, settings: TemplateSettings) -> None:
        check_several_paths(settings.name, setup.space)
        super().__init__(setup, settings)
        self.evaluator = OperationDistribution(self.space, setup.generator("evaluator"), _FIRST_LOGITS).to(setup.device)
        self.modules = {**self.modules, "evaluator": self.evaluator}
        adam = torch.optim.Adam(
            self.evaluator.parameters(),
            lr=settings.evaluator_learning_rate,
            betas=_BETAS,
            weight_decay=settings.evaluator_weight_decay,
        )
        self.optimizers = {**self.optimizers, "evaluator": adam}
        self._evaluator_losses: list[float] = []  # of the epoch

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        done = super().step(images, labels, do)
        self._evaluator_losses.append(self.train_evaluator(*next(do.held_out()), do))
        return done

    def train_evaluator(self, images: Tensor, labels: Tensor, do: Stepper) -> float:
        """Moves the evaluator alone, by the loss of the mixture on a whole batch of held-out images, which it returns.

        Raises:
            DivergedError: if the loss is not finite; in all processes.
        """

        def loss_of(images: Tensor, labels: Tensor) -> Tensor:
            weights: list[Any] = self.evaluator.probabilities()
            widths = self.space.sample(do.own_generator).widths
            even_code = weights[0].new_full((self.setup.shots,), 1 / self.setup.shots)
            with self.supernet.coded_mixture(weights, even_code, widths=widths) as mixture:
                return self.task.loss(mixture(images), labels)

        return held_out_step((images, labels), loss_of, self.supernet, self.optimizers["evaluator"], do)

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """The evaluator's mean loss and the mean entropy of its choices, and what it prefers."""
        losses, self._evaluator_losses = self._evaluator_losses, []
        entropies = self.evaluator.entropies()
        preferred = self.evaluator.mean_probabilities()
        return {
            **super().end_epoch(do),
            "evaluator_loss": sum(losses) / len(losses),
            "evaluator_entropy": sum(entropies) / len(entropies),
            **{f"evaluator_{name}": probability for name, probability in preferred.items()},
        }

    def selection(self, tools: SelectionTools) -> Stage:
        """Scores ``search.population * search.generations`` candidates that the evaluator proposes."""
        return SearchStage(tools.archive, tools.settings, EvaluatorSearcher(self.evaluator, self.settings.selection))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._evaluator_losses = []


class EvaluatorSearcher(Searcher):
    """Proposes what an evaluator holds for good; what becomes of it does not matter.

    Args:
        evaluator: gives the probabilities.
        selection: ``sampled`` or ``likeliest``, see :class:`TemplateSettings`.
    """

    def __init__(self, evaluator: OperationDistribution, selection: str) -> None:
        self.evaluator = evaluator
        self.selection = selection

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        """Candidates within the limits, by their probability among such. Where few of the likely ones are, drawn ones
        are changed until they are."""
        found = self._likeliest(archive, count) if self.selection == "likeliest" else []
        return found + archive.distinct(lambda: self._drawn(archive), count - len(found), besides=found)

    def _likeliest(self, archive: Archive, count: int) -> list[Architecture]:
        candidates = islice(self.evaluator.likeliest_first(archive.generator), _MOST_LOOKED_AT)
        new = (one for one in candidates if one not in archive and archive.limits.admit(archive.space, one))
        return list(islice(new, count))

    def _drawn(self, archive: Archive) -> Architecture:
        for _ in range(_TRIES_WITHIN_LIMITS):
            drawn = self.evaluator.sample(archive.generator)
            if archive.limits.admit(archive.space, drawn):
                break
        return drawn
