"""The K-shot supernet: K copies of every candidate operation's weights, mixed per path by a simplex code."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.convert import convert
from kshot_ext.narrow import narrow
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.outline import outlines
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nn import KShotBatchNorm2d, KShotModule
from kshot_ext.nn.code import set_code
from kshot_ext.nn.fusing import fuse_sequence

_MOST_VIEWS = 1024
"""Narrow parts kept for the next time: to make one takes about as long as a step of a tiny network's layer."""


class Supernet(nn.Module):
    """All networks of a space at once, each with weights ``w(a) = sum_k code_k(a) * weight[k]``.

    Every layer starts as one plain layer and K - 1 slightly perturbed copies of it. K independent starts
    would shrink the mixed weights by 1/sqrt(K), and equal ones would never part. A narrower network uses the leading
    channels of the full one's layers, through the operators' widths: nothing is copied. Operations that share weights,
    see :meth:`SearchSpace.weights_of`, are views in the same way.
    Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.

    Args:
        space: the space whose networks it holds.
        num_shots: K, the number of weight copies, at least 1.
        generator: source of the initial weights.
        perturbation: size of the copies' perturbation relative to the root mean square of the weight.
        mixed_batch_norm: whether batch norm's scales and offsets are mixed by the code; else all codes get the mean
            of the copies, which learns as a single one would.

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

    def __init__(
        self,
        space: SearchSpace,
        num_shots: int,
        generator: torch.Generator,
        *,
        perturbation: float = 0.1,
        mixed_batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.space = space
        self.num_shots = num_shots
        self.mixed_batch_norm = mixed_batch_norm
        self._views: dict[tuple[nn.Module, Hashable], nn.Module] = {}
        kept = map(space.own_weights, range(space.num_layers))
        self._positions = [{name: position for position, name in enumerate(names)} for names in kept]
        with seeded_by(generator):
            plain = nn.ModuleDict(
                {
                    "stem": space.stem(space.full_shape.stem),
                    "layers": nn.ModuleList(_candidates(space, layer) for layer in range(space.num_layers)),
                    "head": space.head(space.full_shape.head),
                }
            )
        plain.to(memory_format=space.memory_format)  # type: ignore[call-overload]  # torch's stub lacks memory_format
        converted = convert(plain, num_shots, perturbation=perturbation, generator=generator)
        for role, kshot in converted.named_children():
            self.add_module(role, kshot)

    def path(self, architecture: Architecture) -> nn.Module:
        """The network of one architecture, made of this supernet's own K-shot modules, or narrow views of them.

        Raises:
            ValueError: if the architecture is not of the space.
        """
        return self.space.assemble(*self._parts(architecture))

    def mixture(self, weights: Sequence[Sequence[Tensor | None]], widths: Sequence[int] | None = None) -> nn.Module:
        """The network in which each layer adds up several candidates, each times its weight:

            output of layer l = sum_i weights[l][i] * candidate_i(input)

        It is made of this supernet's own K-shot modules, or narrow views of them, as :meth:`path` is.

        Args:
            weights: for each layer a tensor of a single number for each of its candidates, which gets its gradient;
                None for a candidate that is not to be computed.
            widths: index of each channel width, the same for all candidates; None for full width.

        Raises:
            ValueError: naming the layer, if there is another number of weights, none at all, or one of another shape.
        """
        return self.space.assemble(*self._mixed_parts(weights, widths))

    @contextmanager
    def coded_path(self, architecture: Architecture, code: Tensor | None = None) -> Iterator[nn.Module]:
        """The network of one architecture, whose modules hold the code inside the context.

        Args:
            architecture: the path.
            code: as in :meth:`forward`.

        Raises:
            ValueError: if the architecture is not of the space, or the code of another shape.
        """
        code = self._checked(code)
        with self._coded(*self._parts(architecture), code) as path:
            yield path

    @contextmanager
    def coded_mixture(
        self,
        weights: Sequence[Sequence[Tensor | None]],
        code: Tensor | None = None,
        *,
        widths: Sequence[int] | None = None,
    ) -> Iterator[nn.Module]:
        """The network of :meth:`mixture`, whose modules hold the code inside the context.

        Args:
            weights, widths: as there.
            code: as in :meth:`forward`; one for all candidates of a layer.

        Raises:
            ValueError: if weights, widths or code do not fit.

        Example:
            >>> from kshot_ext.nas.spaces import create_space
            >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=2)
            >>> supernet = Supernet(space, 1, torch.Generator().manual_seed(0))
            >>> weights = torch.full((8, 3), 1 / 3, requires_grad=True)
            >>> with supernet.coded_mixture(weights) as network:
            ...     network(torch.ones(3, 1, 8, 8)).square().sum().backward()
            >>> weights.grad.shape
            torch.Size([8, 3])
        """
        code = self._checked(code)
        with self._coded(*self._mixed_parts(weights, widths), code) as network:
            yield network

    def forward(self, images: Tensor, architecture: Architecture, code: Tensor | None = None) -> Tensor:
        """Class scores by one path; no other path is computed.

        Args:
            images: float32 ``[N, C, H, W]``.
            architecture: the path.
            code: ``[K]``, mixes the weight copies of all its layers; or ``[L, K]``, a row for each searched layer,
                the stem and the head then use their mean. None for the only one there is, if K is 1.

        Returns:
            ``[N, num_classes]``, differentiable in the images, the path's weights and the code.
        """
        with self.coded_path(architecture, code) as path:
            return path(images)

    def _checked(self, code: Tensor | None) -> Tensor:
        """The code, of a shape that fits; of one copy it may be left out."""
        if code is None and self.num_shots == 1:
            return next(self.parameters()).new_ones(1)
        if code is None or (code.dim() == 2 and len(code) != self.space.num_layers):
            raise ValueError(
                f"code: expected [{self.num_shots}], or one row for each of {self.space.num_layers} layers, "
                f"got {None if code is None else list(code.shape)}"
            )
        return code

    @contextmanager
    def _coded(
        self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module, code: Tensor
    ) -> Iterator[nn.Module]:
        """The network of these parts, which hold the code inside the context."""
        network = self.space.assemble(stem, layers, head)
        fuse_sequence(network)
        try:
            set_code(network, code if code.dim() == 1 else code.mean(dim=0))
            if code.dim() == 2:
                for layer, row in zip(layers, code.unbind()):
                    _set_code_of(KShotModule, layer, row)
            if not self.mixed_batch_norm:
                _set_code_of(KShotBatchNorm2d, network, code.new_full((self.num_shots,), 1 / self.num_shots))
            yield network
        finally:
            set_code(network, None)  # a code kept in a module would keep its graph alive

    def _parts(self, architecture: Architecture) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        """Stem, layers and head of a path."""
        self.space.validate(architecture)
        shape = self.space.shape_of(architecture)
        layers = [self._candidate(*chosen, shape) for chosen in enumerate(architecture.operations)]
        return self._stem(shape), layers, self._head(shape)

    def _mixed_parts(
        self, weights: Sequence[Sequence[Tensor | None]], widths: Sequence[int] | None
    ) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        """Stem, layers and head of a mixture."""
        space = self.space
        _check_mixture(space, weights)
        shape = space.full_shape
        if widths is not None:
            some_path = Architecture((0,) * space.num_layers, tuple(widths))
            space.validate(some_path)
            shape = space.shape_of(some_path)
        layers = []
        for layer, row in enumerate(weights):
            mixed = {choice: weight for choice, weight in enumerate(row) if weight is not None}
            layers.append(space.mixed([self._candidate(layer, choice, shape) for choice in mixed], [*mixed.values()]))
        return self._stem(shape), layers, self._head(shape)

    def _stem(self, shape: NetworkShape) -> nn.Module:
        return self._view(self.stem, (self.space.full_shape.stem,), (shape.stem,), self.space.stem)

    def _candidate(self, layer: int, choice: int, shape: NetworkShape) -> nn.Module:
        name = self.space.operations(layer)[choice]
        kept = self.space.weights_of(name)
        candidates: Any = self.layers[layer]
        part = candidates[self._positions[layer][kept]]
        full, wanted = (kept, self.space.full_shape.layers[layer]), (name, shape.layers[layer])
        return self._view(part, full, wanted, self.space.candidate)

    def _head(self, shape: NetworkShape) -> nn.Module:
        return self._view(self.head, (self.space.full_shape.head,), (shape.head,), self.space.head)

    def _view(
        self,
        part: nn.Module,
        full: tuple[Hashable, ...],
        wanted: tuple[Hashable, ...],
        build: Callable[..., nn.Module],
    ) -> nn.Module:
        """A part of the network as it is wanted: itself, or a view on its leading channels, with bits of its own.

        Args:
            part: as it is kept.
            full, wanted: what ``build`` makes it of, and what it is to be made of.
            build: makes it.
        """
        if wanted == full:
            return part
        key = part, wanted
        if key not in self._views:
            with outlines():
                plain = build(*wanted)
            if len(self._views) >= _MOST_VIEWS:
                self._views.pop(next(iter(self._views)))
            self._views[key] = narrow(part, plain)
        return self._views[key].train(part.training)


def path_loss(
    supernet: Supernet,
    path: Architecture,
    code: Tensor,
    images: Tensor,
    labels: Tensor,
    label_smoothing: float,
    task: Task = CLASSIFICATION,
) -> tuple[Tensor, Tensor]:
    """The task's loss of one path on a batch, and its outputs ``[N, num_outputs]``."""
    outputs = supernet(images, path, code)
    return task.training_loss(outputs, labels, label_smoothing), outputs


def _candidates(space: SearchSpace, layer: int) -> nn.ModuleList:
    shape = space.full_shape.layers[layer]
    return nn.ModuleList(space.candidate(operation, shape) for operation in space.own_weights(layer))


def _check_mixture(space: SearchSpace, weights: Sequence[Sequence[Tensor | None]]) -> None:
    """Refuses weights that are not one or None for every candidate of every layer, and at least one in each layer."""
    if len(weights) != space.num_layers:
        raise ValueError(f"weights: expected a row for each of {space.num_layers} layers, got {len(weights)}")
    for layer, row in enumerate(weights):
        names = space.operations(layer)
        if len(row) != len(names):
            raise ValueError(f"weights[{layer}]: expected one for each of {', '.join(names)}, got {len(row)}")
        given = [weight for weight in row if weight is not None]
        if not given:
            raise ValueError(f"weights[{layer}]: expected at least one of {', '.join(names)} to be computed, got none")
        for weight in given:
            if weight.dim() != 0:
                raise ValueError(f"weights[{layer}]: expected tensors of a single number, got {list(weight.shape)}")


def _set_code_of(kind: type[KShotModule], model: nn.Module, code: Tensor) -> None:
    """Gives the code to the modules of one kind, if there are any."""
    for module in model.modules():
        if isinstance(module, kind):
            set_code(module, code)
