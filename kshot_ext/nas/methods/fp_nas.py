"""FP-NAS: a distribution over architectures, moved by few samples, each counted by how well it explains a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.choice_distribution import ChoiceDistribution
from kshot_ext.nas.methods.parts.found_stage import FoundStage
from kshot_ext.nas.methods.parts.path_method import PathMethod
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.loop import Step, Stepper

_SAMPLES_OF_FOUND = 1000


@dataclass(frozen=True, kw_only=True)
class FPNASSettings(MethodSettings):
    """How many paths are drawn, how they count, and how the distribution moves.

    Args:
        samples: paths of a step; None for as many as `samples_per_nat` says.
        samples_per_nat: times the entropy of the distribution, in nats, so fewer and fewer are drawn.
        most_samples: bound on that; 2 is the least.
        counted_images: a path counts by ``softmax_k(-counted_images * mean loss_k)``: at 1 all count nearly alike, at
            the number of images of a batch nearly always one has all.
        weights_only: share of the training before the distribution moves.
        factorised: share of the training during which it is factorised.
        target: multiply-accumulates that a path may have for nothing, such as "1.5M", or a share of the largest
            network, "60%"; None for no cost.
        cost_weight: of the logarithm of what paths have beyond it.
        learning_rate: of Adam on the logits.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "fp-nas"
    samples: int | None = None
    samples_per_nat: float = 0.25
    most_samples: int = 16
    counted_images: float = 8.0
    weights_only: float = 0.25
    factorised: float = 0.5
    target: str | int | float | None = None
    cost_weight: float = 0.5
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.samples is not None:
            check_at_least("samples", self.samples, 1)
        check_at_least("samples_per_nat", self.samples_per_nat, 0)
        check_at_least("most_samples", self.most_samples, 2)
        check_at_least("counted_images", self.counted_images, 0)
        check_at_least("weights_only", self.weights_only, 0, 1)
        check_at_least("factorised", self.factorised, 0, 1)
        if self.target is not None:
            Budget.parse(self.target, "target")
        check_at_least("cost_weight", self.cost_weight, 0)
        check_at_least("learning_rate", self.learning_rate, 0)


class FPNAS(PathMethod[FPNASSettings]):
    """Draws paths a_1 .. a_K from a distribution P, and counts each by its likelihood on the batch (PARSEC):

        weights:  w  <-  w + rate * sum_k v_k grad log p(labels | images, w, a_k)         on a step's images
        logits:   z  <-  z + rate * sum_k (v_k - cost_weight * c_k) grad log P(a_k)       on held-out images
        v = softmax_k(log p(labels | images, w, a_k)),    c_k = C_k / sum_j C_j,    C_k = max(0, macs_k / target - 1)

    K follows the entropy of P. P is factorised first, then joint, see :class:`ChoiceDistribution`. Its most probable
    architecture is the result.

    Yan et al., "FP-NAS: Fast Probabilistic Neural Architecture Search", CVPR 2021; Casale et al., "Probabilistic Neural
    Architecture Search", 2019.
    """

    summary = "a distribution over paths, which is drawn from less and less as it grows sure"
    paper = "Yan et al., FP-NAS: Fast Probabilistic Neural Architecture Search, CVPR 2021"
    Settings = FPNASSettings
    needs_held_out = True

    def __init__(self, setup: Setup, settings: FPNASSettings) -> None:
        super().__init__(setup, settings)
        self.target = None if settings.target is None else Budget.parse(settings.target).max_macs(setup.space)
        if self.target is not None:
            least = setup.space.count_macs(setup.space.cheapest())
            if self.target < least:
                raise ValueError(
                    f"target: no architecture of space {setup.space.name} has at most {self.target:,} "
                    f"multiply-accumulates; the cheapest has {least:,}"
                )
        self.distribution = ChoiceDistribution(setup.space).to(setup.device)
        self.modules = {**self.modules, "distribution": self.distribution}
        self.optimizers = {
            **self.optimizers,
            "distribution": torch.optim.Adam(self.distribution.parameters(), settings.learning_rate),
        }
        self._samples: list[int] = []  # of the epoch's steps

    @property
    def found(self) -> Architecture:
        """The most probable architecture."""
        return self.distribution.most_probable()

    @property
    def num_samples(self) -> int:
        """How many paths the next step draws."""
        own = self.settings
        if own.samples is not None:
            return own.samples
        wanted = round(own.samples_per_nat * self.distribution.entropy().item())
        return min(max(wanted, 2), own.most_samples)

    def selection(self, tools: SelectionTools) -> FoundStage:
        """Scores the most probable architecture; if it is beyond the limits, the most probable of many samples."""

        def find() -> list[Architecture]:
            if tools.archive.limits.admit(self.space, self.found):
                return [self.found]
            drawn = self.distribution.sample(_SAMPLES_OF_FOUND, self.own_stream())
            within = [path for path in dict.fromkeys(drawn) if tools.archive.limits.admit(self.space, path)]
            if not within:
                return [self.found]
            return [within[int(self.distribution.log_probability(within).argmax())]]

        return FoundStage(tools.archive, find)

    def draw_paths(self, images: Tensor, labels: Tensor, do: Stepper) -> list[Architecture]:
        if do.progress >= self.settings.factorised and not self.distribution.is_joint:
            self.distribution.join()
        paths = self.distribution.sample(self.num_samples, do.own_generator)
        self._samples.append(len(paths))
        return paths

    def train_paths(  # type: ignore[override]  # its paths have equal shares, or shares of its own
        self, paths: list[Architecture], images: Tensor, labels: Tensor, do: Stepper
    ) -> Step:
        """Moves the distribution by held-out images, then the weights by those of the step."""
        if do.progress >= self.settings.weights_only:
            self._move_distribution(paths, do)
        shares = path_shares(self._losses(paths, images, labels, do.share, do), self.settings.counted_images)
        return super().train_paths(paths, images, labels, do, shares=shares)

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        samples, self._samples = self._samples, []
        drawn = self.distribution.sample(64, do.own_generator)
        return {
            "entropy": self.distribution.entropy().item(),
            "samples": sum(samples) / len(samples),
            "mean_macs": sum(map(self.space.count_macs, drawn)) / len(drawn),
            **super().end_epoch(do),
        }

    def _move_distribution(self, paths: Sequence[Architecture], do: Stepper) -> None:
        """One step of the logits, by the same paths on held-out images."""
        images, labels, share = do.processes.part(*next(do.held_out()))
        shares = path_shares(self._losses(paths, images, labels, share, do), self.settings.counted_images)
        worth = torch.tensor(shares) - self.settings.cost_weight * torch.tensor(self._excess_shares(paths))
        log_probability = self.distribution.log_probability(paths)
        # Every process adds the same, of which its part of the batch counts.
        do.backward(-(worth.to(log_probability) * log_probability).sum())
        do.apply(self.optimizers["distribution"])

    @torch.no_grad()
    def _losses(
        self, paths: Sequence[Architecture], images: Tensor, labels: Tensor, share: float, do: Stepper
    ) -> list[float]:
        """Mean cross-entropy of each path on the batch of all processes.

        Raises:
            DivergedError: if one is not finite; in all processes.
        """
        losses, codes = [], []
        for path in paths:
            codes.append(self.simplex_net.code(path))
            with do.forward():
                losses.append(share * F.cross_entropy(self.supernet(images, path, codes[-1]), labels).item())
        losses = do.processes.summed(losses)
        check_path_losses(losses, paths, codes)
        return losses

    def _excess_shares(self, paths: Sequence[Architecture]) -> list[float]:
        """Each path's share of what all have beyond the target; zeros where none has more."""
        if self.target is None:
            return [0.0] * len(paths)
        excess = [max(0.0, self.space.count_macs(path) / self.target - 1) for path in paths]
        return [value / sum(excess) for value in excess] if any(excess) else excess


def path_shares(losses: Sequence[float], counted_images: float) -> list[float]:
    """How much each path counts: ``softmax_k(-counted_images * loss_k)``, of mean losses.

    Example:
        >>> [round(share, 6) for share in path_shares([1.0, 1.0 + math.log(3)], 1.0)]
        [0.75, 0.25]
    """
    least = min(losses)
    likelihoods = [math.exp(-counted_images * (loss - least)) for loss in losses]
    return [likelihood / sum(likelihoods) for likelihood in likelihoods]
