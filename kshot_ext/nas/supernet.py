"""The K-shot supernet: K copies of every candidate operation's weights, mixed per path by a simplex code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext.convert import convert
from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.space import SearchSpace
from kshot_ext.nn.code import set_code


class Supernet(nn.Module):
    """All networks of a space at once, each with weights ``w(a) = sum_k code_k(a) * weight[k]``.

    Every layer starts as one plain layer and K - 1 slightly perturbed copies of it. K independent starts
    would shrink the mixed weights by 1/sqrt(K), and equal ones would never part.
    Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.

    Args:
        space: the space whose networks it holds.
        num_shots: K, the number of weight copies, at least 1.
        generator: source of the initial weights.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> supernet = Supernet(space, 2, torch.Generator().manual_seed(0))
        >>> supernet(torch.zeros(3, 1, 8, 8), space.cheapest(), torch.tensor([0.5, 0.5])).shape
        torch.Size([3, 10])
    """

    stem: nn.Module
    layers: nn.ModuleList
    head: nn.Module

    def __init__(self, space: SearchSpace, num_shots: int, generator: torch.Generator) -> None:
        super().__init__()
        self.space = space
        self.num_shots = num_shots
        with seeded_by(generator):
            plain = nn.ModuleDict(
                {
                    "stem": space.stem(),
                    "layers": nn.ModuleList(_candidates(space, layer) for layer in range(space.num_layers)),
                    "head": space.head(),
                }
            )
        plain.to(memory_format=torch.channels_last)  # as the image batches are
        for role, kshot in convert(plain, num_shots, generator=generator).named_children():
            self.add_module(role, kshot)

    def path(self, architecture: Architecture) -> nn.Module:
        """The network of one architecture, made of this supernet's own K-shot modules.

        Raises:
            ValueError: if the architecture is not of the space.
        """
        self.space.validate(architecture)
        chosen = [candidates[choice] for candidates, choice in zip(self.layers, architecture.operations)]
        return self.space.assemble(self.stem, chosen, self.head)

    def forward(self, images: Tensor, architecture: Architecture, code: Tensor) -> Tensor:
        """Class scores by one path; no other path is computed.

        Args:
            images: float32 ``[N, C, H, W]``.
            architecture: the path.
            code: ``[K]``, mixes the weight copies of all its layers.

        Returns:
            ``[N, num_classes]``, differentiable in the images, the path's weights and the code.
        """
        path = self.path(architecture)
        set_code(path, code)
        try:
            return path(images)
        finally:
            set_code(path, None)  # a code kept in a module would keep its graph alive


def _candidates(space: SearchSpace, layer: int) -> nn.ModuleList:
    return nn.ModuleList(space.candidate(layer, operation) for operation in range(len(space.operations(layer))))
