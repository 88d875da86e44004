"""Trains the simplex-net while the supernet stands still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.code_penalties import imbalance, width_mismatch
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.nas.training.settings import TrainingSettings

_PENALISED_CODES = 64


class SimplexTraining:
    """Steps of Adam on the simplex-net's loss:

        mean over paths of cross-entropy + balance * imbalance + width_separation * width mismatch

    Args:
        supernet: gives the cross-entropy; its weights stay as they are.
        simplex_net: trained in place; its settings have the weights of the other terms.
        settings: learning rate, paths per step, label smoothing.
        num_steps: how many steps there will be; the learning rate falls over them.
        generator: draws the paths; part of the state.
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
        rate = settings.simplex_learning_rate
        self.optimizer = torch.optim.Adam(simplex_net.parameters(), lr=rate)
        self.schedule = CosineAnnealingLR(
            self.optimizer, max(num_steps, 1), eta_min=rate * settings.simplex_rate_at_end
        )

    def step(
        self, images: Iterator[tuple[Tensor, Tensor]], gradient_steps: GradientSteps, processes: DataParallel
    ) -> float:
        """One step, on one batch for each path.

        Args:
            images: batches that the supernet is not trained on.
            gradient_steps: the precision to compute in.
            processes: those that share each batch.

        Returns:
            The mean cross-entropy.

        Raises:
            DivergedError: if that of a path is not finite; in all processes, and before the step is made.
        """
        num_paths, smoothing = self.settings.paths_per_simplex_step, self.settings.label_smoothing
        tally, losses, codes = Tally(), [], []
        paths = self._sample(num_paths)
        with _frozen(self.supernet):
            for path, batch in zip(paths, images):
                part, labels, share = processes.part(*batch)
                code = self.simplex_net([path])[0]
                with gradient_steps.autocast():
                    loss, logits = path_loss(self.supernet, path, code, part, labels, smoothing)
                gradient_steps.backward(share * loss / num_paths)
                losses.append(share * tally.add(loss, logits, labels))
                codes.append(code)
        check_path_losses(processes.summed(losses), paths, codes)
        processes.sum_gradients(self.simplex_net.parameters())
        gradient_steps.backward(self.penalty())  # after the sum, since every process adds the same
        gradient_steps.step(self.optimizer)
        self.schedule.step()
        return processes.joined(tally).loss

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs besides the simplex-net: tensors and plain values."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])

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


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradient is computed for the module's parameters; gradients still flow through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
