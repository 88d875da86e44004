"""Trains the simplex-net while the supernet stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from kshot_ext.nas.checks import check_at_least, check_one_of
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nas.training.code_penalties import imbalance, width_mismatch
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES
from kshot_ext.nas.training.simplex_objectives.objective import StepTools

_PENALISED_CODES = 64


@dataclass(frozen=True, kw_only=True)
class SimplexSettings:
    """How the simplex-net is trained.

    Args:
        simplex_objective: what simplex steps make small: ``loss``, as published, ``relative``, ``ranking``,
            ``agreement`` or ``balance``, see :mod:`kshot_ext.nas.training.simplex_objectives`; leave it out for
            ``loss`` where codes start equal, and elsewhere for ``balance``, which costs nothing.
        simplex_learning_rate: of the simplex-net's Adam, at its first step.
        simplex_rate_at_end: share of it that is left at the end of half a cosine; 1 keeps the rate as it is.
        simplex_every: dictionary steps between two simplex steps.
        paths_per_simplex_step: paths that one simplex step looks at.

    Raises:
        ValueError: if a value is out of range.
    """

    simplex_objective: str | None = None
    simplex_learning_rate: float = 3e-3
    simplex_rate_at_end: float = 1.0
    simplex_every: int = 8
    paths_per_simplex_step: int = 4

    def __post_init__(self) -> None:
        check_at_least("simplex_learning_rate", self.simplex_learning_rate, 0)
        check_at_least("simplex_rate_at_end", self.simplex_rate_at_end, 0, 1)
        check_at_least("simplex_every", self.simplex_every, 1)
        check_at_least("paths_per_simplex_step", self.paths_per_simplex_step, 1)
        if self.simplex_objective is None:
            return
        check_one_of("simplex_objective", self.simplex_objective, SIMPLEX_OBJECTIVES)
        if SIMPLEX_OBJECTIVES[self.simplex_objective].compares_paths and self.paths_per_simplex_step < 2:
            raise ValueError(
                f"paths_per_simplex_step: expected at least 2, since the simplex_objective {self.simplex_objective!r} "
                f"compares paths, got {self.paths_per_simplex_step}"
            )

    def objective(self, codes: CodeSettings) -> str:
        """The name of the objective of a simplex-net whose codes start so.

        To a start by structure no objective was measured to add more than seeds differ by (docs/ranking.md), so it is
        the cheapest one that is taken there. Codes that start equal part by the loss only.
        """
        return self.simplex_objective or ("loss" if codes.starts_equal else "balance")


class SimplexTraining:
    """Steps of Adam on the simplex-net's loss:

        objective + balance * imbalance + width_separation * width mismatch

    where the objective is what ``simplex_objective`` says; as published, the mean cross-entropy of a few paths.

    Args:
        supernet: gives the cross-entropies; its weights stay as they are.
        simplex_net: trained in place; its settings have the weights of the other terms.
        settings: objective, learning rate, paths per step.
        num_steps: how many steps there will be; the learning rate falls over them.
        generator: draws the paths; its state is its owner's to keep.
        label_smoothing: of the cross-entropy.
        task: what targets mean.

    Raises:
        ValueError: if there are steps to make, and they would leave codes equal for ever.
    """

    def __init__(
        self,
        supernet: Supernet,
        simplex_net: SimplexNet,
        settings: SimplexSettings,
        num_steps: int,
        generator: torch.Generator,
        label_smoothing: float = 0.1,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.supernet = supernet
        self.simplex_net = simplex_net
        self.settings = settings
        self.generator = generator
        self.label_smoothing = label_smoothing
        self.task = task
        objective = settings.objective(simplex_net.settings)
        self.objective = SIMPLEX_OBJECTIVES[objective]()
        if num_steps and not self.objective.parts_equal_codes:
            _check_codes_differ(simplex_net, objective)
        rate = settings.simplex_learning_rate
        self.optimizer = torch.optim.Adam(simplex_net.parameters(), lr=rate)
        self.schedule = CosineAnnealingLR(
            self.optimizer, max(num_steps, 1), eta_min=rate * settings.simplex_rate_at_end
        )

    def step(
        self, images: Iterator[tuple[Tensor, Tensor]], gradient_steps: GradientSteps, processes: DataParallel
    ) -> float | None:
        """One step on a few paths.

        Args:
            images: batches that the supernet is not trained on.
            gradient_steps: the precision to compute in.
            processes: those that share each batch.

        Returns:
            The mean cross-entropy of the paths; None if the objective does without.

        Raises:
            DivergedError: if that of a path is not finite; in all processes, and before the step is made.
        """
        paths = self._sample(self.settings.paths_per_simplex_step)
        tools = StepTools(self.supernet, self.simplex_net, self.label_smoothing, gradient_steps, processes, self.task)
        loss = self.objective.backward(paths, images, tools)
        processes.sum_gradients(self.simplex_net.parameters())
        gradient_steps.backward(self.penalty())  # after the sum, since every process adds the same
        gradient_steps.step(self.optimizer)
        self.schedule.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs besides the simplex-net: tensors and plain values."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])

    def penalty(self) -> Tensor:
        """The terms of the loss that look at codes only, on the codes of random paths."""
        space, settings = self.simplex_net.space, self.simplex_net.settings
        paths = self._sample(_PENALISED_CODES)
        codes = self.simplex_net(paths)
        penalty = settings.balance * imbalance(codes)
        if space.widths is None:
            return penalty
        others = [replace(path, widths=other.widths) for path, other in zip(paths, self._sample(len(paths)))]
        ratios, other_ratios = (torch.tensor([space.ratios(path) for path in side]) for side in (paths, others))
        distances = settings.width_distance * (ratios - other_ratios).abs().mean(dim=1)
        mismatch = width_mismatch(codes, self.simplex_net(others), distances.to(codes.device))
        return penalty + settings.width_separation * mismatch

    def _sample(self, count: int) -> list[Architecture]:
        return [self.supernet.space.sample(self.generator) for _ in range(count)]


def _check_codes_differ(simplex_net: SimplexNet, objective: str) -> None:
    """Refuses codes that are equal for all architectures and copies, where nothing could ever part them."""
    if (
        simplex_net.num_shots > 1
        and simplex_net.settings.starts_equal
        and not any(p.any() for p in simplex_net.output.parameters())
    ):
        raise ValueError(
            f"simplex_objective: {objective!r} needs codes that differ at the start, and these are all equal, which it "
            f"would leave so; set codes.start, or take 'loss'"
        )
