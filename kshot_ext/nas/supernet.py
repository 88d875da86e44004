"""The K-shot supernet: K copies of every candidate operation's weights, mixed per path by a simplex code."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import torch
from torch import Tensor, nn

from kshot_ext.convert import convert
from kshot_ext.narrow import narrow
from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.outline import outlines
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.space import SearchSpace
from kshot_ext.nn.code import set_code

_MOST_VIEWS = 1024
"""Narrow parts kept for the next time: to make one takes about as long as a step of a tiny network's layer."""


class Supernet(nn.Module):
    """All networks of a space at once, each with weights ``w(a) = sum_k code_k(a) * weight[k]``.

    Every layer starts as one plain layer and K - 1 slightly perturbed copies of it. K independent starts
    would shrink the mixed weights by 1/sqrt(K), and equal ones would never part. A narrower network uses the leading
    channels of the full one's layers, through the operators' widths: nothing is copied.
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
        self._views: dict[tuple[nn.Module, Hashable], nn.Module] = {}
        with seeded_by(generator):
            plain = nn.ModuleDict(
                {
                    "stem": space.stem(space.full_shape.stem),
                    "layers": nn.ModuleList(_candidates(space, layer) for layer in range(space.num_layers)),
                    "head": space.head(space.full_shape.head),
                }
            )
        plain.to(memory_format=torch.channels_last)  # as the image batches are
        for role, kshot in convert(plain, num_shots, generator=generator).named_children():
            self.add_module(role, kshot)

    def path(self, architecture: Architecture) -> nn.Module:
        """The network of one architecture, made of this supernet's own K-shot modules, or narrow views of them.

        Raises:
            ValueError: if the architecture is not of the space.
        """
        space = self.space
        space.validate(architecture)
        full, shape = space.full_shape, space.shape_of(architecture)
        chosen = [candidates[choice] for candidates, choice in zip(self.layers, architecture.operations)]
        builders = [partial(space.candidate, name) for name in space.operation_names(architecture)]
        layers = [self._view(*layer) for layer in zip(chosen, full.layers, shape.layers, builders)]
        stem = self._view(self.stem, full.stem, shape.stem, space.stem)
        return space.assemble(stem, layers, self._view(self.head, full.head, shape.head, space.head))

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

    def _view(
        self, part: nn.Module, full: Hashable, wanted: Hashable, build: Callable[[Hashable], nn.Module]
    ) -> nn.Module:
        """A part of the network at the wanted shape: itself, or a view on its leading channels."""
        if wanted == full:
            return part
        key = part, wanted
        if key not in self._views:
            with outlines():
                plain = build(wanted)
            if len(self._views) >= _MOST_VIEWS:
                self._views.pop(next(iter(self._views)))
            self._views[key] = narrow(part, plain)
        return self._views[key].train(part.training)


def _candidates(space: SearchSpace, layer: int) -> nn.ModuleList:
    shape = space.full_shape.layers[layer]
    return nn.ModuleList(space.candidate(operation, shape) for operation in space.operations(layer))
