"""Methods that train all candidates of a layer at once, each by a weight that is learnt too.

    output of layer l = sum_i w_li * candidate_i(input),    w a function of the logits of the layer, or of several

How weights follow from logits, how logits are trained, and how one or a few candidates are left in the end is what
parts these methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kshot_ext.nas.methods.method import Method, OwnSettings, Setup
from kshot_ext.nas.methods.parts.path_method import weight_optimizer
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.divergence import check_loss
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.optimization import Tally

Rows = list[list[Tensor | None]]
"""Weights of a mixture: for each layer one for each candidate, None for those that are not computed."""


class Relaxation(nn.Module):
    """A logit for each candidate of each layer, and which of them are still in use.

    Args:
        space: whose candidates.

    Attributes:
        logits: ``[L, O]``, 0 at the start; O is the most candidates of a layer.
        kept: bool ``[L, O]``; False for candidates that were left out, or that a layer does not have.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2)
        >>> relaxation = Relaxation(space)
        >>> relaxation.keep_only(0, 2)
        >>> relaxation.softmax()[:2]
        tensor([[0.0000, 0.0000, 1.0000],
                [0.3333, 0.3333, 0.3333]], grad_fn=<SliceBackward0>)
    """

    kept: Tensor

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.counts = [len(space.operations(layer)) for layer in range(space.num_layers)]
        self.logits = nn.Parameter(torch.zeros(space.num_layers, max(self.counts)))
        self.register_buffer("kept", torch.arange(max(self.counts)) < torch.tensor(self.counts)[:, None])

    def keep_only(self, layer: int, choice: int) -> None:
        """Leaves one candidate of a layer."""
        self.kept[layer] = False
        self.kept[layer, choice] = True

    def softmax(self) -> Tensor:
        """Shares of the kept candidates, ``[L, O]``: each layer's sum to 1; a single one has all."""
        return self.logits.masked_fill(~self.kept, -torch.inf).softmax(dim=1)

    def entropy(self) -> float:
        """Mean entropy of the layers' shares, in nats."""
        return float(torch.special.entr(self.softmax().detach()).sum(dim=1).mean())

    def rows(self, values: Tensor) -> Rows:
        """Values ``[L, O]`` as the weights of a mixture: None where a candidate is not kept."""
        return [
            [value if keep else None for value, keep in zip(row[:count].unbind(), kept[:count])]
            for row, kept, count in zip(values, self.kept.tolist(), self.counts)
        ]

    def cells(self) -> list[tuple[int, int]]:
        """Layer and choice of all candidates that are kept."""
        return [(layer, choice) for layer, choice in self.kept.nonzero().tolist()]


@dataclass(frozen=True, eq=False)
class SinglePaths:
    """Networks of one operation a layer, with the weights of a supernet of one copy."""

    supernet: Supernet

    def network(self, architecture: Architecture) -> AbstractContextManager[nn.Module]:
        """Inside the context the supernet's own modules for an architecture."""
        return self.supernet.coded_path(architecture)


class MixtureMethod(Method[OwnSettings]):
    """Trains a mixture of all candidates that are kept.

    Mixtures are at full width, and one mixture has one code: so neither widths nor copies are of use here.

    Args:
        setup: what the method is made for; any space that searches no widths, and one copy.
        settings: its own options.

    Attributes:
        supernet, relaxation: what is trained.
    """

    takes_copies = False
    searches_widths = False

    def __init__(self, setup: Setup, settings: OwnSettings) -> None:
        super().__init__(setup, settings)
        self.supernet = Supernet(setup.space, 1, setup.generator("supernet")).to(setup.device)
        self.relaxation = Relaxation(setup.space).to(setup.device)
        self.modules = {"supernet": self.supernet, "relaxation": self.relaxation}
        weights = weight_optimizer(self.supernet, setup.training, setup.shots)
        self.optimizers: Mapping[str, Optimizer] = {"supernet": weights, "logits": self.logit_optimizer()}

    @abstractmethod
    def logit_optimizer(self) -> Optimizer:
        """What trains the logits, at a rate that stays as it is."""

    def mixture_loss(self, weights: Rows, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The task's loss of a mixture, and its outputs ``[N, num_outputs]``."""
        with self.supernet.coded_mixture(weights) as network:
            logits = network(images)
        return self.task.training_loss(logits, labels, self.training.label_smoothing), logits

    def backward(
        self, weights: Rows, images: Tensor, labels: Tensor, do: Stepper, penalty: Tensor | float = 0.0
    ) -> Step:
        """Adds the gradient of a mixture's loss on a batch, and of a penalty.

        Raises:
            DivergedError: if the loss is not finite; in all processes.
        """
        tally = Tally()
        with do.forward():
            loss, logits = self.mixture_loss(weights, images, labels)
        do.backward(loss + penalty)
        [whole] = do.processes.summed([do.share * tally.add(loss, logits, labels, self.task)])
        check_loss(whole)
        return Step(whole, tally)
