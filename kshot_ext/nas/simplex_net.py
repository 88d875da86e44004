"""The simplex-net: from an architecture to the code that mixes the K weight copies for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.space import SearchSpace


class SimplexNet(nn.Module):
    """``code(a) = softmax(W2 relu(W1 onehot(a) + b1) + b2)``, one code per architecture for all its layers.

    Where the space searches widths, a second branch reads them: ``V onehot(widths)`` is added inside the relu.

    W2 and b2 start at zero, so an untrained simplex-net gives every architecture the equal code 1/K.
    Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.

    Args:
        space: the space whose architectures it reads.
        num_shots: K, the length of a code, at least 1.
        generator: source of the initial weights.
        hidden_features: width of the hidden layer.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> simplex_net = SimplexNet(space, 4, torch.Generator().manual_seed(0))
        >>> simplex_net([space.cheapest(), space.largest()]).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(
        self, space: SearchSpace, num_shots: int, generator: torch.Generator, hidden_features: int = 100
    ) -> None:
        super().__init__()
        check_at_least("num_shots", num_shots, 1)
        check_at_least("hidden_features", hidden_features, 1)
        self.space = space
        self.num_shots = num_shots
        num_inputs = space.encode(space.cheapest()).numel()
        with seeded_by(generator):
            self.operation_branch = nn.Linear(num_inputs, hidden_features)
            self.output = nn.Linear(hidden_features, num_shots)
            self.width_branch = None
            if space.widths is not None:
                num_inputs = space.encode_widths(space.cheapest()).numel()
                self.width_branch = nn.Linear(num_inputs, hidden_features, bias=False)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Codes of M architectures, float32 ``[M, K]``: no entry is negative and each row sums to 1."""
        device = self.output.weight.device
        encoded = torch.stack([self.space.encode(architecture) for architecture in architectures]).to(device)
        hidden = self.operation_branch(encoded.flatten(1))
        if self.width_branch is not None:
            encoded = torch.stack([self.space.encode_widths(architecture) for architecture in architectures]).to(device)
            hidden = hidden + self.width_branch(encoded.flatten(1))
        return self.output(torch.relu(hidden)).softmax(dim=1)

    @torch.no_grad()
    def code(self, architecture: Architecture) -> Tensor:
        """The code of one architecture, float32 ``[K]``, without gradient."""
        return self([architecture])[0]


def imbalance(codes: Tensor) -> Tensor:
    """How unequally the K entries share the codes of many architectures: ``log K - entropy(mean code)``.

    An entry that leads gets more of the gradient, and so leads more, until it holds all the weight. This penalty
    acts on the mean code only: codes may still differ from one architecture to the next. (The balance term of
    mixture-of-experts training, Shazeer et al., ICLR 2017, in the form of an entropy.)

    Args:
        codes: ``[M, K]``, rows on the simplex.

    Returns:
        Scalar, 0 for equal shares up to ``log K`` for one entry that takes all; differentiable.

    Example:
        >>> imbalance(torch.eye(4))
        tensor(0.)
    """
    share = codes.mean(dim=0)
    return math.log(codes.shape[1]) - torch.special.entr(share).sum()


@dataclass(frozen=True)
class CodeStatistics:
    """How the codes of random architectures spread; a spread near 0 means that K-shot has become one-shot.

    Args:
        distance: mean L1 distance between the codes of two architectures, 0 to 2.
        entry_shares: mean share of each of the K entries, summing to 1.
    """

    distance: float
    entry_shares: tuple[float, ...]


@torch.no_grad()
def code_statistics(
    simplex_net: SimplexNet, space: SearchSpace, generator: torch.Generator, num_architectures: int = 256
) -> CodeStatistics:
    """Measures the codes of random architectures.

    Args:
        simplex_net: gives the codes.
        space: where the architectures are drawn from, uniformly.
        generator: draws them.
        num_architectures: how many, at least 2.
    """
    check_at_least("num_architectures", num_architectures, 2)
    codes = simplex_net([space.sample(generator) for _ in range(num_architectures)])
    return CodeStatistics(
        distance=float(torch.pdist(codes, p=1).mean()), entry_shares=tuple(codes.mean(dim=0).tolist())
    )
