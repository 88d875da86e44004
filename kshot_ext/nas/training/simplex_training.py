"""Trains the simplex-net while the supernet stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.code_penalties import imbalance, width_mismatch
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES
from kshot_ext.nas.training.simplex_objectives.objective import StepTools

_PENALISED_CODES = 64


class SimplexTraining:
    """Steps of Adam on the simplex-net's loss:

        objective + balance * imbalance + width_separation * width mismatch

    where the objective is what ``simplex_objective`` says, by default the mean cross-entropy of a few paths.

    Args:
        supernet: gives the cross-entropies; its weights stay as they are.
        simplex_net: trained in place; its settings have the weights of the other terms.
        settings: objective, learning rate, paths per step, label smoothing.
        num_steps: how many steps there will be; the learning rate falls over them.
        generator: draws the paths; part of the state.

    Raises:
        ValueError: if there are steps to make, and they would leave codes equal for ever.
    """

    def __init__(
        self,
        supernet: Supernet,
        simplex_net: SimplexNet,
        settings: TrainingSettings,
        num_steps: int,
        generator: torch.Generator,
    ) -> None:
        self.supernet = supernet
        self.simplex_net = simplex_net
        self.settings = settings
        self.generator = generator
        self.objective = SIMPLEX_OBJECTIVES[settings.simplex_objective]()
        if num_steps and not self.objective.parts_equal_codes:
            _check_codes_differ(simplex_net, settings.simplex_objective)
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
        smoothing = self.settings.label_smoothing
        tools = StepTools(self.supernet, self.simplex_net, smoothing, gradient_steps, processes)
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
            "generator": self.generator.get_state(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
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
